"""Runs the pipeline on this machine: TFX's LocalDagRunner, SQLite metadata, local Beam."""

import datetime
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.compiler import compiler
from tfx.orchestration import metadata
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import launcher, runtime_parameter_utils

from components.report import METRICS_FILE
from pipeline import dag
from pipeline.beam import LOCAL_BEAM_ARGS
from pipeline.config import Config
from pipeline.errors import NodeFailed, UserError

RUN_ID_PARAMETER = "pipeline-run-id"
_STATE = metadata_store_pb2.Execution
# How tf.debugging.Assert begins in a graph.
_ASSERTION = "assertion failed:"
_LONGEST_LINE = 1000


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
) -> dict[str, Any]:
    """Runs every node, brings the report to `root/report` and returns its metrics.

    Raises:
      UserError: another run holds `root`.
      NodeFailed: a node raised; names it and its last error line.
    """
    paths = dag.Paths(data=str(data.resolve()), root=str(root.resolve()))
    with _locked(root):
        connection = metadata.sqlite_metadata_connection_config(paths.metadata)
        pipeline = dag.create_pipeline(config, paths, connection, [*LOCAL_BEAM_ARGS, *beam_args])
        ir = compiler.Compiler().compile(pipeline)
        run_id = datetime.datetime.now().isoformat()
        runtime_parameter_utils.substitute_runtime_parameter(ir, {RUN_ID_PARAMETER: run_id})
        results = [_run_node(ir, node.pipeline_node, on_node) for node in ir.nodes]
        return _publish_report(next(r for r in results if r.node == "Reporter"), root, run_id)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    root.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(root / ".lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise UserError(
            f"{root}: another run is using this folder; wait for it, or give this run its own --root"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _run_node(ir: Any, node: Any, on_node: Callable[[NodeResult], None]) -> NodeResult:
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
        raise NodeFailed(f"{name} failed: {_last_line(error)}") from error
    with handle:
        state, outputs = _final_state(handle.store, execution.execution_id if execution else None)
    if state not in (_STATE.COMPLETE, _STATE.CACHED):
        raise NodeFailed(f"{name} ended as {_STATE.State.Name(state)}: its inputs could not be resolved")
    result = NodeResult(name, state == _STATE.CACHED, time.monotonic() - started, outputs)
    on_node(result)
    return result


def _final_state(store: Any, execution_id: int | None) -> tuple[int, dict[str, str]]:
    """The state in ML Metadata and the URIs of the outputs; launch() swallows errors of input resolution."""
    if execution_id is None:
        return _STATE.UNKNOWN, {}
    [execution] = store.get_executions_by_id([execution_id])
    events = [e for e in store.get_events_by_execution_ids([execution_id]) if e.type == metadata_store_pb2.Event.OUTPUT]
    uris = {artifact.id: artifact.uri for artifact in store.get_artifacts_by_id([e.artifact_id for e in events])}
    return execution.last_known_state, {event.path.steps[0].key: uris[event.artifact_id] for event in events}


def _last_line(error: BaseException) -> str:
    """What went wrong, from messages that Beam and TensorFlow fill with tracebacks and whole records."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = next((line for line in lines if line.startswith(_ASSERTION)), lines[-1] if lines else "")
    return f"{type(error).__name__}: {line[:_LONGEST_LINE]}"


def _publish_report(result: NodeResult, root: Path, run_id: str) -> dict[str, Any]:
    """`root/report` shows the last run, also when the report itself came from the cache."""
    source = Path(result.outputs["report"])
    metrics = {**json.loads((source / METRICS_FILE).read_text(encoding="utf-8")), "run_id": run_id}
    target = root / "report" / METRICS_FILE
    target.parent.mkdir(exist_ok=True)
    aside = target.with_suffix(".incomplete")
    aside.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    aside.replace(target)
    return metrics
