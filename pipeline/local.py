"""Runs the pipeline on this machine: LocalDagRunner's loop over TFX's launcher, SQLite metadata, local Beam."""

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path

from tfx.orchestration import metadata

from flexunet.core.config.whole import Config
from flexunet.core.features import TRIALS
from flexunet.core.files import read_json
from flexunet.core.results.metrics import Metrics
from flexunet.core.results.tuning import Tuning
from flexunet.history.database import connect, sqlite_connection
from flexunet.history.durations import NodeStart, node_seconds
from flexunet.history.pushes import record_rollbacks
from pipeline import dag
from pipeline.launch import NodeResult, compile_run
from pipeline.run import publish_report, run_in_turn


def run(
    config: Config,
    data: Path,
    root: Path,
    beam_args: Sequence[str] = (),
    on_node: Callable[[NodeResult], None] = lambda result: None,
    accepted_refused: str = "",
    on_start: Callable[[NodeStart], None] = lambda start: None,
    from_model: Path | None = None,
) -> Metrics:
    """Runs every node, brings the report to `root/report` and returns its metrics.

    The caller holds the lock of `root`. `accepted_refused` is a reason to push the model although the gate refuses it,
    `from_model` the folder of an export that is judged instead of training one.

    Raises:
      NodeFailed: a node raised; names it and its last error line.
    """
    run_id, results = _run_nodes(
        config, data, root, beam_args, on_node, on_start, accepted_refused=accepted_refused, from_model=from_model
    )
    return publish_report(results, root, run_id)


def tune(
    config: Config,
    data: Path,
    root: Path,
    beam_args: Sequence[str] = (),
    on_node: Callable[[NodeResult], None] = lambda result: None,
    on_start: Callable[[NodeStart], None] = lambda start: None,
) -> Tuning:
    """Runs the nodes up to Tuner, which `run` with the same configuration then finds in the cache.

    The caller holds the lock of `root`.

    Raises:
      NodeFailed: a node raised; names it and its last error line.
    """
    _, results = _run_nodes(config, data, root, beam_args, on_node, on_start, last="Tuner")
    return read_json(Path(results["Tuner"].outputs["tuner_results"]) / TRIALS)


def _run_nodes(
    config: Config,
    data: Path,
    root: Path,
    beam_args: Sequence[str],
    on_node: Callable[[NodeResult], None],
    on_start: Callable[[NodeStart], None],
    last: str | None = None,
    accepted_refused: str = "",
    from_model: Path | None = None,
) -> tuple[str, dict[str, NodeResult]]:
    """The id of a run, and what became of each node up to `last`; None: of all."""
    paths = dag.Paths(data=str(data.resolve()), root=str(root.resolve()))
    root.mkdir(parents=True, exist_ok=True)
    connection = sqlite_connection(paths.runs.metadata)
    pipeline = dag.create_pipeline(
        config, paths, connection, beam_args, accepted_refused=accepted_refused, from_model=from_model
    )
    store = connect(connection)
    record_rollbacks(store, paths.runs.serving)
    run_id = datetime.datetime.now().isoformat()
    ir, database = compile_run(pipeline, run_id), metadata.Metadata(connection)
    results: dict[str, NodeResult] = {}
    nodes = {node.pipeline_node.node_info.id: node.pipeline_node for node in ir.nodes}
    names = list(nodes)[: list(nodes).index(last) + 1] if last else list(nodes)
    last_seconds = node_seconds(store)
    for name in names:
        on_start(NodeStart(name, tuple(names[len(results) + 1 :]), last_seconds.get(name)))
        results[name] = run_in_turn(ir, nodes[name], database, results, paths.runs.serving, accepted_refused)
        on_node(results[name])
    return run_id, results
