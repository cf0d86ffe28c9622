"""What ML Metadata knows of a push, without TFX: `flexunet rollback` need not wait for its import."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2

# Custom properties of PushedModel artifacts. The first is TFX's own; a rollback leaves ROLLED_BACK.
PUSHED: Final = "pushed"
PUSHED_MODEL_ID: Final = "pushed_model_id"
PUSHED_COMPARABLE: Final = "pushed_comparable"
PUSHED_SHA256: Final = "pushed_sha256"
ROLLED_BACK: Final = "rolled_back"
# Also a key of provenance.json: why a person had a model pushed that the gate refused.
ACCEPTED_REFUSED: Final = "accepted_refused"

_PUSHED_MODEL: Final = "PushedModel"


def record_rollbacks(database: Path, hashes: Collection[str]) -> None:
    """Marks which pushes hold a model that is rolled back, and clears the mark of the others.

    The folder of the versions is what knows (serving/versions.py); this is its copy for the resolver and for lineage.
    The caller holds the lock of the database's folder.
    """
    if not database.is_file():
        return
    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = str(database)
    store = mlmd.MetadataStore(connection)
    if _PUSHED_MODEL not in {kind.name for kind in store.get_artifact_types()}:
        return
    changed = [push for push in store.get_artifacts_by_type(_PUSHED_MODEL) if _mark(push, hashes)]
    if changed:
        store.put_artifacts(changed)


def _mark(push: Any, hashes: Collection[str]) -> bool:
    """Whether the mark had to change."""
    properties = push.custom_properties
    is_rolled_back = PUSHED_SHA256 in properties and properties[PUSHED_SHA256].string_value in hashes
    was = ROLLED_BACK in properties and properties[ROLLED_BACK].int_value == 1
    if is_rolled_back != was:
        properties[ROLLED_BACK].int_value = int(is_rolled_back)
    return is_rolled_back != was
