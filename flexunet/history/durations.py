"""How long nodes took in earlier runs of the same folder, by ML Metadata."""

from dataclasses import dataclass

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2

from flexunet.history.store import executions_by_node


@dataclass(frozen=True)
class NodeStart:
    """A node that begins, those that wait behind it, and how long it took when it last did its work."""

    node: str
    waiting: tuple[str, ...]
    last_seconds: float | None


def node_seconds(store: mlmd.MetadataStore) -> dict[str, float]:
    """Seconds that each node took when it last did its work, by node; those that only came from the cache have none."""
    found: dict[str, float] = {}
    for node, executions in executions_by_node(store):
        worked = [e for e in executions if e.last_known_state == metadata_store_pb2.Execution.COMPLETE]
        if worked:
            last = max(worked, key=lambda execution: execution.create_time_since_epoch)
            milliseconds = last.last_update_time_since_epoch - last.create_time_since_epoch
            found[node] = milliseconds / 1000
    return found
