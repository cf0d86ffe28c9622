"""What ML Metadata knows of a push, without TFX: `flexunet rollback` need not wait for its import."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2

from flexunet.serving.versions import newest_version, restored_at, rolled_back, version_hash

# TFX's name of the artifact's type.
PUSHED_MODEL: Final = "PushedModel"
# Custom properties of PushedModel artifacts. The first is TFX's own; a rollback leaves ROLLED_BACK on what it withdrew
# and RESTORED_MILLISECONDS, in milliseconds since 1970 as ML Metadata's own times, on what it restored.
PUSHED: Final = "pushed"
PUSHED_MODEL_ID: Final = "pushed_model_id"
PUSHED_COMPARABLE: Final = "pushed_comparable"
PUSHED_SHA256: Final = "pushed_sha256"
ROLLED_BACK: Final = "rolled_back"
RESTORED_MILLISECONDS: Final = "restored_milliseconds"


def record_rollbacks(store: mlmd.MetadataStore, serving: Path) -> None:
    """Marks which pushes hold a model that is rolled back, and which one a rollback made the newest again.

    The folder of the versions, `serving`, is what knows (flexunet/serving/versions.py); this is its copy for the
    resolver and for lineage. The caller holds the lock of `serving`, or of the run's folder.
    """
    if PUSHED_MODEL not in {kind.name for kind in store.get_artifact_types()}:
        return
    withdrawn, restored = rolled_back(serving), _restored(serving)
    changed = [push for push in store.get_artifacts_by_type(PUSHED_MODEL) if _mark(push, withdrawn, restored)]
    if changed:
        store.put_artifacts(changed)


def last_pushed(artifact_id: int, created: int, restored: int | None) -> tuple[int, int]:
    """Sorts pushes by when they were made or, by a rollback, restored, both in milliseconds since 1970."""
    return max(created, restored or 0), artifact_id


def _restored(serving: Path) -> dict[str, int]:
    """The model that the newest version holds and when it was restored, if a rollback made that version."""
    newest = newest_version(serving)
    moment = restored_at(newest) if newest else None
    return {version_hash(newest): int(moment.timestamp() * 1000)} if newest and moment else {}


def _mark(push: metadata_store_pb2.Artifact, withdrawn: Collection[str], restored: Mapping[str, int]) -> bool:
    """Whether the marks had to change."""
    properties = push.custom_properties
    digest = properties[PUSHED_SHA256].string_value if PUSHED_SHA256 in properties else ""
    wanted = {ROLLED_BACK: int(digest in withdrawn)}
    if digest in restored:
        wanted[RESTORED_MILLISECONDS] = restored[digest]
    changed = {k: v for k, v in wanted.items() if v != (properties[k].int_value if k in properties else 0)}
    for key, value in changed.items():
        properties[key].int_value = value
    return bool(changed)
