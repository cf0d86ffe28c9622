"""Versions in a store that has no rename; TensorFlow's file system in memory stands for it."""

import uuid
from pathlib import Path
from typing import Any

import pytest
from tfx.dsl.io import fileio

from components import mirror
from components.mirror import mirror_version, mirrored_versions, newest_mirrored
from flexunet.core.errors import UserError
from flexunet.serving.model_config import Named, write_named


@pytest.fixture
def store() -> str:
    return f"ram://{uuid.uuid4()}/models"


def version(folder: Path, number: int) -> Path:
    for name in ("saved_model.pb", "variables/variables.index", "assets.extra/provenance.json", "a.txt", "z.txt"):
        path = folder / str(number) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number} {name}")
    return folder / str(number)


def test_a_version_is_copied_under_its_number(tmp_path: Path, store: str) -> None:
    assert mirror_version(version(tmp_path, 3), store, keep=2) == f"{store}/3"
    assert mirrored_versions(store) == [3]
    with fileio.open(f"{store}/3/variables/variables.index") as file:
        assert file.read() == "3 variables/variables.index"


def test_the_graph_goes_last_and_a_killed_copy_is_finished(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    real = fileio.copy

    def copy(source: Any, target: Any, overwrite: bool = False) -> None:
        if len(copied) == 3:
            raise KeyboardInterrupt
        copied.append(target)
        real(source, target, overwrite=overwrite)

    with monkeypatch.context() as patch:
        patch.setattr(mirror.fileio, "copy", copy)
        with pytest.raises(KeyboardInterrupt):
            mirror_version(version(tmp_path, 1), store, keep=2)
    assert not fileio.exists(f"{store}/1/saved_model.pb") and len(copied) == 3
    mirror_version(tmp_path / "1", store, keep=2)
    assert fileio.exists(f"{store}/1/saved_model.pb") and fileio.exists(f"{store}/1/z.txt")


def test_the_newest_few_stay(tmp_path: Path, store: str) -> None:
    for number in (8, 9, 10, 11):
        mirror_version(version(tmp_path, number), store, keep=2)
    assert mirrored_versions(store) == [10, 11]
    assert not fileio.exists(f"{store}/9/variables/variables.index")


def test_what_is_served_stays(tmp_path: Path, store: str) -> None:
    write_named(tmp_path, Named(store, 8))
    for number in (7, 8, 9, 10, 11):
        mirror_version(version(tmp_path, number), store, keep=2)
    assert mirrored_versions(store) == [8, 10, 11]


def test_what_was_broken_off_takes_no_place_of_a_whole_version(tmp_path: Path, store: str) -> None:
    mirror_version(version(tmp_path, 6), store, keep=2)
    with fileio.open(f"{store}/7/a.txt", "w") as file:
        file.write("half")
    mirror_version(version(tmp_path, 8), store, keep=2)
    assert mirrored_versions(store) == [6, 8]


def test_a_store_that_is_not_there_has_no_versions(store: str) -> None:
    assert mirrored_versions(store) == []
    assert newest_mirrored(store) == newest_mirrored("") == 0


def test_a_store_with_higher_numbers_is_another_folders(tmp_path: Path, store: str) -> None:
    mirror_version(version(tmp_path, 7), store, keep=2)
    with pytest.raises(UserError, match="holds version 7, expected none above 3") as refused:
        mirror_version(version(tmp_path, 3), store, keep=2)
    assert "name another store in serving.mirror" in str(refused.value)
    assert mirrored_versions(store) == [7] and newest_mirrored(store) == 7


def test_a_store_that_cannot_be_used_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^nope://store: .*expected a store that can be listed and written") as refused:
        mirror_version(version(tmp_path, 1), "nope://store", keep=2)
    assert len(str(refused.value).splitlines()) == 1
