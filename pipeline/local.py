"""Runs the pipeline on this machine: LocalDagRunner's loop over TFX's launcher, SQLite metadata, local Beam."""

import datetime
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_metadata.proto import metadata_store_pb2
from tfx.components.evaluator.constants import BLESSED_FILE_NAME
from tfx.dsl.compiler import compiler, constants
from tfx.orchestration import metadata
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import launcher, runtime_parameter_utils
from tfx.utils import path_utils

from components import pusher
from components.report import DETAILS_FILE, METRICS_FILE, TRAINING_FOLDER
from pipeline import dag
from pipeline.beam import LOCAL_BEAM_ARGS
from pipeline.config import Config
from pipeline.errors import NodeFailed, last_line

_STATE = metadata_store_pb2.Execution


@dataclass(frozen=True)
class NodeResult:
    """How one node ended."""

    node: str
    cached: bool
    seconds: float
    outputs: dict[str, str]


def run(
    config: Config,
    data: Path,
    root: Path,
    beam_args: Sequence[str] = (),
    on_node: Callable[[NodeResult], None] = lambda result: None,
    accepted_refused: str = "",
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
    ir = compiler.Compiler().compile(pipeline)
    run_id = datetime.datetime.now().isoformat()
    runtime_parameter_utils.substitute_runtime_parameter(ir, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: run_id})
    results: dict[str, NodeResult] = {}
    for node in (node.pipeline_node for node in ir.nodes):
        name = node.node_info.id
        if name == "Pusher" and _must_push(results, Path(paths.serving), accepted_refused):
            node.execution_options.caching_options.enable_cache = False
        results[name] = _run_node(ir, node)
        on_node(results[name])
    return _publish_report(results["Reporter"], root, run_id)


def _must_push(results: dict[str, NodeResult], serving: Path, accepted_refused: str) -> bool:
    """Whether an accepted model is not what is served, though it was pushed once: versions go on and get deleted."""
    blessing, model = Path(results["Evaluator"].outputs["blessing"]), results["Trainer"].outputs["model"]
    if not accepted_refused and not (blessing / BLESSED_FILE_NAME).exists():
        return False
    served = pusher.versions(serving)
    wanted = pusher.content_hash(Path(path_utils.serving_model_path(model)))
    return not served or pusher.pushed_hash(serving / str(served[-1])) != wanted


def _run_node(ir: Any, node: Any) -> NodeResult:
    """Launches one node as LocalDagRunner does, then reads from ML Metadata how it ended."""
    name, started = node.node_info.id, time.monotonic()
    deployment = runner_utils.extract_local_deployment_config(ir)
    connection = deployment.metadata_connection_config
    handle = metadata.Metadata(getattr(connection, connection.WhichOneof("connection_config")))
    try:
        execution = launcher.Launcher(
            pipeline_node=node,
            mlmd_connection=handle,
            pipeline_info=ir.pipeline_info,
            pipeline_runtime_spec=ir.runtime_spec,
            executor_spec=runner_utils.extract_executor_spec(deployment, name),
            custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, name),
        ).launch()
    except Exception as error:
        raise NodeFailed(f"{name} failed: {last_line(error)}") from error
    with handle:
        state, outputs = _final_state(handle.store, execution.execution_id if execution else None)
    if state not in (_STATE.COMPLETE, _STATE.CACHED):
        raise NodeFailed(f"{name} ended as {_STATE.State.Name(state)}: its inputs could not be resolved")
    return NodeResult(name, state == _STATE.CACHED, time.monotonic() - started, outputs)


def _final_state(store: Any, execution_id: int | None) -> tuple[int, dict[str, str]]:
    """The state in ML Metadata and the URIs of the outputs; launch() swallows errors of input resolution."""
    if execution_id is None:
        return _STATE.UNKNOWN, {}
    [execution] = store.get_executions_by_id([execution_id])
    events = [e for e in store.get_events_by_execution_ids([execution_id]) if e.type == metadata_store_pb2.Event.OUTPUT]
    uris = {artifact.id: artifact.uri for artifact in store.get_artifacts_by_id([e.artifact_id for e in events])}
    return execution.last_known_state, {event.path.steps[0].key: uris[event.artifact_id] for event in events}


def _publish_report(result: NodeResult, root: Path, run_id: str) -> dict[str, Any]:
    """`root/report` shows the last run, also when the report itself came from the cache."""
    source, target = Path(result.outputs["report"]), root / "report"
    metrics = {**json.loads((source / METRICS_FILE).read_text(encoding="utf-8")), "run_id": run_id}
    target.mkdir(exist_ok=True)
    _replace(target / DETAILS_FILE, (source / DETAILS_FILE).read_text(encoding="utf-8"))
    shutil.rmtree(target / TRAINING_FOLDER, ignore_errors=True)
    shutil.copytree(source / TRAINING_FOLDER, target / TRAINING_FOLDER)
    _replace(target / METRICS_FILE, json.dumps(metrics, indent=2) + "\n")
    return metrics


def _replace(target: Path, text: str) -> None:
    aside = target.with_suffix(".incomplete")
    aside.write_text(text, encoding="utf-8")
    aside.replace(target)
