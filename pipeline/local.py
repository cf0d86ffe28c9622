"""Runs the pipeline on this machine: LocalDagRunner's loop over TFX's launcher, SQLite metadata, local Beam."""

import datetime
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tfx.components.evaluator.constants import BLESSED_FILE_NAME
from tfx.orchestration import metadata
from tfx.utils import path_utils

from components.serving_validator import INFRA_BLESSED, NOT_CHECKED, SERVING_FILE
from flexunet.core.beam import LOCAL_BEAM_ARGS
from flexunet.core.config.whole import Config
from flexunet.core.files import read_json
from flexunet.history.durations import NodeStart, node_seconds
from flexunet.history.pushes import record_rollbacks
from flexunet.reporting import files
from flexunet.reporting.report import write_page
from flexunet.serving.versions import content_hash, newest_version, pushed_hash, rolled_back, versions
from pipeline import dag
from pipeline.launch import NodeResult, compile_run, run_node


def run(
    config: Config,
    data: Path,
    root: Path,
    beam_args: Sequence[str] = (),
    on_node: Callable[[NodeResult], None] = lambda result: None,
    accepted_refused: str = "",
    on_start: Callable[[NodeStart], None] = lambda start: None,
) -> dict[str, Any]:
    """Runs every node, brings the report to `root/report` and returns its metrics.

    The caller holds the lock of `root`. `accepted_refused` is a reason to push the model although the gate refuses it.

    Raises:
      NodeFailed: a node raised; names it and its last error line.
    """
    paths = dag.Paths(data=str(data.resolve()), root=str(root.resolve()))
    root.mkdir(parents=True, exist_ok=True)
    connection = metadata.sqlite_metadata_connection_config(paths.metadata)
    pipeline = dag.create_pipeline(
        config, paths, connection, [*LOCAL_BEAM_ARGS, *beam_args], accepted_refused=accepted_refused
    )
    record_rollbacks(connection, Path(paths.serving))
    run_id = datetime.datetime.now().isoformat()
    ir, database = compile_run(pipeline, run_id), metadata.Metadata(connection)
    results: dict[str, NodeResult] = {}
    nodes = {node.pipeline_node.node_info.id: node.pipeline_node for node in ir.nodes}
    last_seconds = node_seconds(connection)
    for name, node in nodes.items():
        waiting = tuple(nodes)[len(results) + 1 :]
        on_start(NodeStart(name, waiting, last_seconds.get(name)))
        results[name] = run_in_turn(ir, node, database, results, Path(paths.serving), accepted_refused)
        on_node(results[name])
    return publish_report(results, root, run_id, accepted_refused)


def run_in_turn(
    ir: Any,
    node: Any,
    database: metadata.Metadata,
    before: dict[str, NodeResult],
    serving: Path,
    accepted_refused: str,
) -> NodeResult:
    """Runs a node after those `before`; what comes from the cache must still hold.

    The Pusher needs all of them in `before`, no other node needs any.

    Raises:
      NodeFailed: it raised.
    """
    name, caching = node.node_info.id, node.execution_options.caching_options
    if name == "Pusher" and _must_push(before, serving, accepted_refused):
        caching.enable_cache = False
    if name in ("ServingValidator", "InfraValidator") and _was_not_servable(serving.parent):
        caching.enable_cache = False
    return run_node(ir, node, database)


def serving_verdict(root: Path) -> dict[str, Any]:
    """What the serving validator found in the last run: `{blessed, problems, rolled_back, ...measurements}`.

    `rolled_back` is the version under which this very model was rolled back, or None.
    """
    return read_json(root / "report" / files.SERVING_FILE)


def _must_push(results: dict[str, NodeResult], serving: Path, accepted_refused: str) -> bool:
    """Whether an accepted model is not what is served, though it was pushed once: versions go on and get deleted.

    A model that was rolled back is not pushed again by a run: `flexunet rollback --to` brings it back.
    """
    if not _is_accepted(results, accepted_refused):
        return False
    wanted = _model_hash(results)
    return wanted not in rolled_back(serving) and _served_hash(serving) != wanted


def _was_not_servable(root: Path) -> bool:
    """Whether the last run's model was refused by what was measured, which depends on what else the machine did."""
    last = serving_verdict(root) or {"blessed": True}
    return not last["blessed"] and last["problems"] != [NOT_CHECKED]


def _is_accepted(results: dict[str, NodeResult], accepted_refused: str) -> bool:
    blessing = Path(results["Evaluator"].outputs["blessing"])
    by_gate = bool(accepted_refused) or (blessing / BLESSED_FILE_NAME).exists()
    return by_gate and _serving_findings(results)["blessed"]


def _serving_findings(results: dict[str, NodeResult]) -> dict[str, Any]:
    """Our validator's, and the refusal of TFX's own where it is configured."""
    folder = Path(results["ServingValidator"].outputs["blessing"])
    findings = json.loads((folder / SERVING_FILE).read_text(encoding="utf-8"))
    server = results.get("InfraValidator")
    if server is not None and not (Path(server.outputs["blessing"]) / INFRA_BLESSED).exists():
        problem = "TF Serving did not serve it: see InfraValidator in the log"
        findings |= {"blessed": False, "problems": [*findings["problems"], problem]}
    return findings


def _model_hash(results: dict[str, NodeResult]) -> str:
    return content_hash(Path(path_utils.serving_model_path(results["Trainer"].outputs["model"])))


def _served_hash(serving: Path) -> str | None:
    newest = newest_version(serving)
    return pushed_hash(newest) if newest else None


def publish_report(results: dict[str, NodeResult], root: Path, run_id: str, accepted_refused: str) -> dict[str, Any]:
    """`root/report` shows the last run, also when the report itself came from the cache; returns its metrics."""
    source, target = Path(results["Reporter"].outputs["report"]), root / "report"
    metrics = {**read_json(source / files.METRICS_FILE), "run_id": run_id}
    serving, model = root / "serving_model", _model_hash(results)
    # A report from the cache tells the number of an earlier push; versions go on.
    is_served = _is_accepted(results, accepted_refused) and _served_hash(serving) == model
    metrics["pushed_version"] = versions(serving)[-1] if is_served else None
    withdrawn = rolled_back(serving).get(model)
    target.mkdir(exist_ok=True)
    for folder in (files.TRAINING_FOLDER, files.GALLERY_FOLDER):
        shutil.rmtree(target / folder, ignore_errors=True)
        shutil.copytree(source / folder, target / folder)
    for name in (files.DETAILS_FILE, files.DATA_FILE, files.MODEL_FILE, files.DIAGRAM_FILE, files.LINEAGE_FILE):
        files.replace(target / name, (source / name).read_text(encoding="utf-8"))
    files.write_json(target / files.SERVING_FILE, {**_serving_findings(results), "rolled_back": withdrawn})
    files.write_json(target / files.METRICS_FILE, metrics)
    write_page(target)
    return metrics
