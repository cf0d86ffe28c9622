"""What earlier attempts at the nodes of a run left in ML Metadata and on the volume."""

import logging

from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.io import fileio
from tfx.orchestration import metadata
from tfx.orchestration.portable import outputs_utils
from tfx.orchestration.portable.mlmd import context_lib, execution_lib
from tfx.proto.orchestration import pipeline_pb2

from flexunet.core.errors import NodeFailed
from pipeline.launch import SUCCESSFUL, NodeResult, final_state

logger = logging.getLogger("flexunet.kubeflow")


def finished(node: pipeline_pb2.PipelineNode, database: metadata.Metadata) -> NodeResult | None:
    """How the node ended in this run, if it did: a container may be killed between its last word and its exit."""
    with database as handle:
        done = [e for e in _executions(node, handle) if e.last_known_state in SUCCESSFUL]
        if not done:
            return None
        state, outputs = final_state(handle.store, max(execution.id for execution in done))
    return NodeResult(node.node_info.id, state == metadata_store_pb2.Execution.CACHED, 0.0, outputs)


def results(ir: pipeline_pb2.Pipeline, database: metadata.Metadata) -> dict[str, NodeResult]:
    """Results of the nodes that ended well so far, by name."""
    found = [finished(node.pipeline_node, database) for node in ir.nodes]
    return {result.node: result for result in found if result is not None}


def all_results(ir: pipeline_pb2.Pipeline, database: metadata.Metadata) -> dict[str, NodeResult]:
    """Results of every node.

    Raises:
      NodeFailed: one did not end well; Kubeflow should not have come here.
    """
    found = results(ir, database)
    missing = [node.pipeline_node.node_info.id for node in ir.nodes if node.pipeline_node.node_info.id not in found]
    if missing:
        raise NodeFailed(f"{', '.join(missing)}: not done in this run")
    return found


def clear_leftovers(ir: pipeline_pb2.Pipeline, node: pipeline_pb2.PipelineNode, database: metadata.Metadata) -> None:
    """Removes what a killed attempt wrote: TFX takes up its execution again, with the same folders.

    Beam names its shards by their number, so that half an output could be read together with the whole.
    """
    resolver = outputs_utils.OutputsResolver(node, ir.pipeline_info, ir.runtime_spec)
    with database as handle:
        for execution in _executions(node, handle):
            outputs = resolver.generate_output_artifacts(execution.id)
            folders = [artifact.uri for artifacts in outputs.values() for artifact in artifacts]
            for folder in filter(fileio.exists, folders):
                logger.info("%s: removing what an earlier attempt left: %s", node.node_info.id, folder)
                fileio.rmtree(folder)


def _executions(node: pipeline_pb2.PipelineNode, handle: metadata.Metadata) -> list[metadata_store_pb2.Execution]:
    contexts = context_lib.prepare_contexts(handle, node.contexts)
    return execution_lib.get_executions_associated_with_all_contexts(handle, contexts)
