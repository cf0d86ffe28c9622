"""What a version knows of itself; lineage from ML Metadata is in tests/e2e/test_pipeline.py."""

import json
from pathlib import Path

import pytest
from command_line import flexunet

from flexunet.core.errors import UserError
from flexunet.history.lineage import is_intact, lineage_of
from flexunet.history.store import read_history
from flexunet.serving.versions import Retention, push_version, roll_back


def test_a_version_that_somebody_made_by_hand_and_a_rollback_restored_tells_what_it_knows(tmp_path: Path) -> None:
    serving = tmp_path / "serving_model"
    for folder, mark in ((serving / "1", "by hand"), (tmp_path / "trained", "trained")):
        (folder / "assets.extra").mkdir(parents=True)
        (folder / "saved_model.pb").write_text(mark)
        (folder / "assets.extra" / "config.json").write_text('{"classes": []}')
    push_version(tmp_path / "trained", serving, {}, Retention())
    found = lineage_of(roll_back(serving).version)
    assert (found.run, found.model, found.data, found.scores) == (None, None, {}, {})
    assert found.config == {"classes": []} and is_intact(Path(found.version), found)


def test_a_version_whose_hash_nobody_noted_is_not_called_changed(tmp_path: Path) -> None:
    version = tmp_path / "serving_model" / "1"
    (version / "assets.extra").mkdir(parents=True)
    (version / "saved_model.pb").write_text("of somebody else")
    (version / "assets.extra" / "config.json").write_text('{"classes": []}')
    (version / "assets.extra" / "provenance.json").write_text('{"run": "theirs"}')
    found = lineage_of(version)
    assert found.sha256 == "" and is_intact(version, found) is None
    told, written = (flexunet(tmp_path, "lineage", str(version), *options) for options in ((), ("--json",)))
    assert "not known, nor whether files of the version were changed" in told.output
    assert json.loads(written.stdout)["intact"] is None


def test_a_damaged_database_is_the_users_to_repair(tmp_path: Path) -> None:
    (tmp_path / "metadata.db").write_text("no database at all, whatever its name says" * 99)
    with pytest.raises(UserError, match=r"metadata.db: not a database of ML Metadata"):
        read_history(tmp_path)
