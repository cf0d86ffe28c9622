"""How long nodes took in earlier runs of the same folder, by ML Metadata."""

from dataclasses import dataclass

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2


@dataclass(frozen=True)
class NodeStart:
    """A node that begins, those that wait behind it, and how long it took when it last did its work."""

    node: str
    waiting: tuple[str, ...]
    last_seconds: float | None


def node_seconds(store: mlmd.MetadataStore) -> dict[str, float]:
    """Seconds that each node took when it last did its work, by node; those that only came from the cache have none."""
    found: dict[str, float] = {}
    known = {kind.name for kind in store.get_context_types()}
    for context in store.get_contexts_by_type("node") if "node" in known else []:
        executions = store.get_executions_by_context(context.id)
        worked = [e for e in executions if e.last_known_state == metadata_store_pb2.Execution.COMPLETE]
        if worked:
            last = max(worked, key=lambda execution: execution.create_time_since_epoch)
            milliseconds = last.last_update_time_since_epoch - last.create_time_since_epoch
            # TFX names the context PIPELINE.NODE.
            found[context.name.rpartition(".")[2]] = milliseconds / 1000
    return found
