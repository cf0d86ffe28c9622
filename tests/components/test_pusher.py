"""Versions appear whole, by one rename."""

import json
import multiprocessing
import time
from pathlib import Path

import pytest

from components.pusher import content_hash, push_version, versions


def make_model(directory: Path, mark: str = "a", files: int = 3) -> Path:
    (directory / "variables").mkdir(parents=True)
    for index in range(files):
        (directory / "variables" / f"part-{index}").write_text(mark * 1000)
    (directory / "saved_model.pb").write_text(mark)
    return directory


def test_versions_count_up_and_hold_the_model_and_its_origin(tmp_path: Path) -> None:
    serving = tmp_path / "serving"
    first = push_version(make_model(tmp_path / "a", "a"), serving, {"model_uri": "a"})
    second = push_version(make_model(tmp_path / "b", "b"), serving, {"model_uri": "b"})
    assert (first.name, second.name) == ("1", "2")
    assert (second / "saved_model.pb").read_text() == "b"
    provenance = json.loads((second / "assets.extra" / "provenance.json").read_text())
    assert provenance == {"model_uri": "b", "sha256": content_hash(tmp_path / "b")}
    assert sorted(p.name for p in serving.iterdir()) == ["1", "2"]


def test_pushing_the_newest_again_changes_nothing(tmp_path: Path) -> None:
    serving = tmp_path / "serving"
    first = push_version(make_model(tmp_path / "a"), serving, {"model_uri": "a"})
    assert push_version(make_model(tmp_path / "same"), serving, {"model_uri": "same"}) == first
    assert versions(serving) == [1]


def test_another_model_at_the_same_place_is_pushed(tmp_path: Path) -> None:
    """Ids and paths begin anew when the metadata database is deleted."""
    serving = tmp_path / "serving"
    push_version(make_model(tmp_path / "a", "old"), serving, {"model_uri": "model/6"})
    push_version(make_model(tmp_path / "b", "new"), serving, {"model_uri": "model/6"})
    assert versions(serving) == [1, 2]


def test_an_earlier_model_gets_a_higher_number(tmp_path: Path) -> None:
    serving = tmp_path / "serving"
    models = [make_model(tmp_path / mark, mark) for mark in ("a", "b")]
    for model in (models[0], models[1], models[0]):
        push_version(model, serving, {})
    assert versions(serving) == [1, 2, 3]


def test_versions_sort_as_numbers_and_other_names_do_not_count(tmp_path: Path) -> None:
    for name in ("9", "10", ".11.incomplete", "notes"):
        (tmp_path / name).mkdir()
    assert versions(tmp_path) == [9, 10]
    assert versions(tmp_path / "missing") == []


def test_leftovers_of_a_killed_push_do_no_harm(tmp_path: Path) -> None:
    serving = tmp_path / "serving"
    make_model(serving / ".1.incomplete", "old", files=9)
    target = push_version(make_model(tmp_path / "a", "new"), serving, {})
    assert sorted(p.name for p in (target / "variables").iterdir()) == ["part-0", "part-1", "part-2"]


def _push_many(model: Path, serving: Path) -> None:
    for number in range(1000):
        (model / "saved_model.pb").write_text(str(number))
        push_version(model, serving, {})


@pytest.mark.parametrize("attempt", range(3))
def test_a_server_never_sees_half_a_version(tmp_path: Path, attempt: int) -> None:
    model, serving = make_model(tmp_path / "a", files=30), tmp_path / "serving"
    pushing = multiprocessing.get_context("fork").Process(target=_push_many, args=(model, serving))
    pushing.start()
    seen: set[int] = set()
    deadline = time.monotonic() + 1.0 + attempt * 0.037
    while time.monotonic() < deadline:
        for version in set(versions(serving)) - seen:
            names = {p.name for p in (serving / str(version)).rglob("*")}
            assert {"saved_model.pb", "provenance.json", "part-0", "part-29"} <= names
            seen.add(version)
    pushing.kill()
    pushing.join()
    assert len(seen) > 3
    for version in versions(serving):
        assert len(list((serving / str(version) / "variables").iterdir())) == 30
