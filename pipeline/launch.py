"""One node of a compiled pipeline through TFX's launcher; how it ended is read back from ML Metadata."""

import time
from dataclasses import dataclass

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.compiler import compiler, constants
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import launcher, runtime_parameter_utils
from tfx.proto.orchestration import pipeline_pb2

from flexunet.core import beam, disk
from flexunet.core.errors import NodeFailed, last_line

_STATE = metadata_store_pb2.Execution
# How an execution ends whose outputs can be used.
SUCCESSFUL = (_STATE.COMPLETE, _STATE.CACHED)


@dataclass(frozen=True)
class NodeResult:
    """How one node ended; `outputs` are URIs."""

    node: str
    cached: bool
    seconds: float
    outputs: dict[str, str]


def compile_run(pipeline: tfx_pipeline.Pipeline, run_id: str) -> pipeline_pb2.Pipeline:
    """TFX's intermediate representation of one run."""
    ir = compiler.Compiler().compile(pipeline)
    runtime_parameter_utils.substitute_runtime_parameter(ir, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: run_id})
    return ir


def run_node(ir: pipeline_pb2.Pipeline, node: pipeline_pb2.PipelineNode, database: metadata.Metadata) -> NodeResult:
    """Launches one node as LocalDagRunner does.

    Raises:
      NodeFailed: it raised, or its inputs could not be resolved.
    """
    name, started = node.node_info.id, time.monotonic()
    deployment = runner_utils.extract_local_deployment_config(ir)
    try:
        execution = launcher.Launcher(
            pipeline_node=node,
            mlmd_connection=database,
            pipeline_info=ir.pipeline_info,
            pipeline_runtime_spec=ir.runtime_spec,
            executor_spec=runner_utils.extract_executor_spec(deployment, name),
            custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, name),
        ).launch()
    except Exception as error:
        words = disk.words_in(str(error))
        repair = beam.repair_of(str(error)) or (f"; {words}" if words else "")
        raise NodeFailed(f"{name} failed: {last_line(error)}{repair}") from error
    with database as handle:
        state, outputs = final_state(handle.store, execution.execution_id if execution else None)
    if state not in SUCCESSFUL:
        raise NodeFailed(f"{name} ended as {_STATE.State.Name(state)}: its inputs could not be resolved")
    return NodeResult(name, state == _STATE.CACHED, time.monotonic() - started, outputs)


def final_state(store: mlmd.MetadataStore, execution_id: int | None) -> tuple[int, dict[str, str]]:
    """The state in ML Metadata and the URIs of the outputs; launch() swallows errors of input resolution."""
    if execution_id is None:
        return _STATE.UNKNOWN, {}
    [execution] = store.get_executions_by_id([execution_id])
    events = [e for e in store.get_events_by_execution_ids([execution_id]) if e.type == metadata_store_pb2.Event.OUTPUT]
    uris = {artifact.id: artifact.uri for artifact in store.get_artifacts_by_id([e.artifact_id for e in events])}
    return execution.last_known_state, {event.path.steps[0].key: uris[event.artifact_id] for event in events}
