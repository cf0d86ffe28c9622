"""What a rollback leaves in ML Metadata, in a real store."""

from collections.abc import Callable
from pathlib import Path

import ml_metadata as mlmd
import pytest
from ml_metadata.proto import metadata_store_pb2

from flexunet.history.database import sqlite_connection
from flexunet.history.pushes import PUSHED_SHA256, RESTORED_MILLISECONDS, ROLLED_BACK, record_rollbacks
from flexunet.serving.versions import Retention, finish_rollback, push_version, restored_at, roll_back, version_hash


@pytest.fixture
def serving(tmp_path: Path) -> Path:
    """Three versions of three models."""
    for mark in "abc":
        (tmp_path / mark).mkdir()
        (tmp_path / mark / "saved_model.pb").write_text(mark)
        push_version(tmp_path / mark, tmp_path / "serving", {}, Retention())
    return tmp_path / "serving"


@pytest.fixture
def marks(serving: Path) -> Callable[[], list[dict[str, int]]]:
    """The marks of the three pushes, as they stand in the database after a recording."""
    store = mlmd.MetadataStore(sqlite_connection(serving.parent / "metadata.db"))
    kind = store.put_artifact_type(metadata_store_pb2.ArtifactType(name="PushedModel"))
    for number in (1, 2, 3):
        push = metadata_store_pb2.Artifact(type_id=kind)
        push.custom_properties[PUSHED_SHA256].string_value = version_hash(serving / str(number))
        store.put_artifacts([push])

    def read() -> list[dict[str, int]]:
        record_rollbacks(store, serving)
        pushes = store.get_artifacts_by_type("PushedModel")
        keys = (ROLLED_BACK, RESTORED_MILLISECONDS)
        return [{k: p.custom_properties[k].int_value for k in keys if k in p.custom_properties} for p in pushes]

    return read


def test_without_a_rollback_there_is_no_mark(marks: Callable[[], list[dict[str, int]]]) -> None:
    assert marks() == [{}, {}, {}]


def test_a_rollback_marks_what_it_withdrew_and_what_it_restored(
    serving: Path, marks: Callable[[], list[dict[str, int]]]
) -> None:
    moment = restored_at(roll_back(serving, to=1).version)
    assert moment is not None
    restored = {RESTORED_MILLISECONDS: int(moment.timestamp() * 1000)}
    assert marks() == marks() == [restored, {}, {ROLLED_BACK: 1}]
    finish_rollback(serving)
    later = restored_at(roll_back(serving, to=3).version)
    assert later is not None
    back = {ROLLED_BACK: 0, RESTORED_MILLISECONDS: int(later.timestamp() * 1000)}
    assert marks() == [{**restored, ROLLED_BACK: 1}, {}, back]
