"""Versions appear whole, by one rename."""

import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest
from tfx.types import standard_artifacts
from tfx.utils import json_utils

from components.pusher import Executor, content_hash, push_version, versions


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


def run_pusher(folder: Path, blessed: int, reason: str = "", servable: int | None = None) -> Any:
    """Pushes a model whose ModelBlessing, and perhaps InfraBlessing, says `blessed`; returns the PushedModel."""
    model, blessing, pushed = (
        standard_artifacts.Model(),
        standard_artifacts.ModelBlessing(),
        standard_artifacts.PushedModel(),
    )
    model.uri, pushed.uri = str(folder / "model"), str(folder / "pushed")
    make_model(folder / "model" / "Format-Serving")
    blessing.set_int_custom_property("blessed", blessed)
    inputs: dict[str, list[Any]] = {"model": [model], "model_blessing": [blessing]}
    if servable is not None:
        infra = standard_artifacts.InfraBlessing()
        infra.set_int_custom_property("blessed", servable)
        inputs["infra_blessing"] = [infra]
    settings = {"directory": str(folder / "serving"), "comparable": "c", "code": ""}
    settings |= {"accepted_refused": reason} if reason else {}
    Executor().Do(inputs, {"pushed_model": [pushed]}, {"custom_config": json_utils.dumps(settings)})
    return pushed


@pytest.mark.parametrize(
    ("blessed", "reason", "servable", "expected"),
    [
        (1, "", None, [1]),
        (0, "", None, []),
        (0, "the line stands still", None, [1]),
        (0, "the line stands still", 1, [1]),
        (0, "the line stands still", 0, []),
        (1, "", 0, []),
    ],
)
def test_a_person_overrules_the_gate_with_a_reason_and_no_other_check(
    tmp_path: Path, blessed: int, reason: str, servable: int | None, expected: list[int]
) -> None:
    pushed = run_pusher(tmp_path, blessed, reason, servable)
    assert versions(tmp_path / "serving") == expected
    assert pushed.get_int_custom_property("pushed") == len(expected)


def test_the_reason_is_recorded_where_the_model_was_refused_and_only_there(tmp_path: Path) -> None:
    refused = run_pusher(tmp_path / "a", blessed=0, reason="the line stands still")
    blessed = run_pusher(tmp_path / "b", blessed=1, reason="the line stands still")
    assert refused.get_string_custom_property("accepted_refused") == "the line stands still"
    assert not blessed.get_string_custom_property("accepted_refused")
    provenance = [
        json.loads((tmp_path / name / "serving" / "1" / "assets.extra" / "provenance.json").read_text())
        for name in ("a", "b")
    ]
    assert provenance[0]["accepted_refused"] == "the line stands still"
    assert "accepted_refused" not in provenance[1]
