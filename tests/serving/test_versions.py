"""Versions appear whole, by one rename."""

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from processes import ENVIRONMENT

from flexunet.core.errors import UserError
from flexunet.serving.versions import (
    Retention,
    content_hash,
    finish_rollback,
    last_retention,
    push_version,
    pushed_hash,
    restored_at,
    roll_back,
    rolled_back,
    versions,
)

ALL = Retention()


def make_model(directory: Path, mark: str = "a", files: int = 3) -> Path:
    (directory / "variables").mkdir(parents=True)
    for index in range(files):
        (directory / "variables" / f"part-{index}").write_text(mark * 1000)
    (directory / "saved_model.pb").write_text(mark)
    return directory


def pushed(folder: Path, marks: str) -> Path:
    for mark in marks:
        push_version(make_model(folder / mark, mark), folder / "serving", {"mark": mark}, ALL)
    return folder / "serving"


def test_versions_count_up_and_hold_the_model_and_its_origin(tmp_path: Path) -> None:
    serving = tmp_path / "serving"
    first = push_version(make_model(tmp_path / "a", "a"), serving, {"model_uri": "a"}, ALL)
    second = push_version(make_model(tmp_path / "b", "b"), serving, {"model_uri": "b"}, ALL)
    assert (first.name, second.name) == ("1", "2")
    assert (second / "saved_model.pb").read_text() == "b"
    provenance = json.loads((second / "assets.extra" / "provenance.json").read_text())
    assert provenance == {"model_uri": "b", "version": 2, "sha256": content_hash(tmp_path / "b")}
    assert sorted(p.name for p in serving.iterdir()) == [".pushes.json", "1", "2"]


def test_pushing_the_newest_again_changes_nothing(tmp_path: Path) -> None:
    serving = tmp_path / "serving"
    first = push_version(make_model(tmp_path / "a"), serving, {"model_uri": "a"}, ALL)
    assert push_version(make_model(tmp_path / "same"), serving, {"model_uri": "same"}, ALL) == first
    assert versions(serving) == [1]


def test_a_broken_file_of_names_refuses_a_push_before_anything_is_visible(tmp_path: Path) -> None:
    serving = pushed(tmp_path, "ab")
    (serving / "models.config").write_text("{")
    for change in (lambda: pushed(tmp_path, "c"), lambda: roll_back(serving)):
        with pytest.raises(UserError, match="expected a ModelServerConfig"):
            change()
    assert sorted(path.name for path in serving.iterdir()) == [".pushes.json", "1", "2", "models.config"]


def test_another_model_at_the_same_place_is_pushed(tmp_path: Path) -> None:
    """Ids and paths begin anew when the metadata database is deleted."""
    serving = tmp_path / "serving"
    push_version(make_model(tmp_path / "a", "old"), serving, {"model_uri": "model/6"}, ALL)
    push_version(make_model(tmp_path / "b", "new"), serving, {"model_uri": "model/6"}, ALL)
    assert versions(serving) == [1, 2]


def test_an_earlier_model_gets_a_higher_number(tmp_path: Path) -> None:
    serving = tmp_path / "serving"
    models = [make_model(tmp_path / mark, mark) for mark in ("a", "b")]
    for model in (models[0], models[1], models[0]):
        push_version(model, serving, {}, ALL)
    assert versions(serving) == [1, 2, 3]


def test_versions_sort_as_numbers_and_other_names_do_not_count(tmp_path: Path) -> None:
    for name in ("9", "10", ".11.incomplete", "notes"):
        (tmp_path / name).mkdir()
    assert versions(tmp_path) == [9, 10]
    assert versions(tmp_path / "missing") == []


def test_leftovers_of_a_killed_push_do_no_harm(tmp_path: Path) -> None:
    serving = tmp_path / "serving"
    make_model(serving / ".1.incomplete", "old", files=9)
    target = push_version(make_model(tmp_path / "a", "new"), serving, {}, ALL)
    assert sorted(p.name for p in (target / "variables").iterdir()) == ["part-0", "part-1", "part-2"]


def test_a_number_is_never_given_twice(tmp_path: Path) -> None:
    """A server may hold the deleted version in memory, and would not look at its number again."""
    serving = pushed(tmp_path, "ab")
    shutil.rmtree(serving / "2")
    assert push_version(tmp_path / "b", serving, {}, ALL).name == "3"


def test_the_newest_few_stay(tmp_path: Path) -> None:
    serving = tmp_path / "serving"
    for mark in "abcde":
        push_version(make_model(tmp_path / mark, mark), serving, {}, Retention(3))
    assert versions(serving) == [3, 4, 5]
    assert sorted(p.name for p in serving.iterdir()) == [".pushes.json", "3", "4", "5"]


def test_a_rollback_serves_the_earlier_model_under_a_higher_number(tmp_path: Path) -> None:
    serving = pushed(tmp_path, "abc")
    done = roll_back(serving)
    assert (done.withdrawn, done.restored, done.version.name) == (3, 2, "4")
    assert (done.version / "saved_model.pb").read_text() == "b"
    provenance = json.loads((done.version / "assets.extra" / "provenance.json").read_text())
    digest = content_hash(tmp_path / "b")
    moment = restored_at(done.version)
    assert moment is not None and abs(moment.timestamp() - time.time()) < 60
    expected = {"mark": "b", "version": 4, "restored": 2, "withdrawn": 3, "sha256": digest}
    assert provenance == {**expected, "restored_at": provenance["restored_at"]}
    assert restored_at(serving / "3") is None
    assert rolled_back(serving) == {content_hash(tmp_path / "c"): 3}


def test_a_second_rollback_goes_further_back_and_to_brings_back(tmp_path: Path) -> None:
    serving = pushed(tmp_path, "abc")
    roll_back(serving)
    finish_rollback(serving)
    assert roll_back(serving).restored == 1
    finish_rollback(serving)
    assert sorted(rolled_back(serving).values()) == [3, 4]
    assert roll_back(serving, to=3).version.name == "6"
    assert (serving / "6" / "saved_model.pb").read_text() == "c"
    assert content_hash(tmp_path / "c") not in rolled_back(serving)


@pytest.mark.parametrize(
    ("marks", "to", "words"),
    [
        ("", None, "no version here"),
        ("a", None, "no version before 1 holds another model"),
        ("ab", 7, "no version 7, expected one of 1, 2"),
        ("ab", 2, "version 2 is the model that is served as 2 already"),
    ],
)
def test_a_rollback_to_nowhere_is_the_users_mistake(tmp_path: Path, marks: str, to: int | None, words: str) -> None:
    serving = pushed(tmp_path, marks)
    with pytest.raises(UserError, match=words):
        roll_back(serving, to=to)
    assert rolled_back(serving) == {}


def test_a_rollback_that_ended_before_its_push_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = pushed(tmp_path, "abc")
    with monkeypatch.context() as patch:
        patch.setattr("flexunet.serving.versions.shutil.copytree", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            roll_back(serving)
    assert versions(serving) == [1, 2, 3]
    again = roll_back(serving)
    # Number 4 was noted before the push began.
    assert (again.withdrawn, again.restored, versions(serving)) == (3, 2, [1, 2, 3, 5])


def test_a_rollback_that_was_not_finished_is_not_done_twice(tmp_path: Path) -> None:
    """What follows its push, the copy in a remote store, may fail."""
    serving = pushed(tmp_path, "abc")
    done = roll_back(serving)
    assert roll_back(serving) == done and roll_back(serving, to=2) == done
    assert versions(serving) == [1, 2, 3, 4]
    assert roll_back(serving, to=1).version.name == "5"


def test_a_damaged_version_is_not_restored(tmp_path: Path) -> None:
    serving = pushed(tmp_path, "abc")
    (serving / "2" / "saved_model.pb").write_text("half")
    (tmp_path / "serving" / "0").mkdir()
    with pytest.raises(UserError, match=r"2: damaged, its files are not those that were pushed"):
        roll_back(serving, to=2)
    assert rolled_back(serving) == {} and versions(serving) == [0, 1, 2, 3]
    assert roll_back(serving).restored == 1


@pytest.mark.parametrize("name", [".pushes.json", "1/assets.extra/provenance.json"])
def test_a_damaged_note_is_the_users_to_repair(tmp_path: Path, name: str) -> None:
    serving = pushed(tmp_path, "ab")
    (serving / name).write_text('{"last')
    with pytest.raises(UserError, match=f"{name}: not what this project wrote"):
        roll_back(serving, to=1)


def test_a_push_ends_an_unfinished_rollback(tmp_path: Path) -> None:
    serving = pushed(tmp_path, "ab")
    roll_back(serving)
    push_version(make_model(tmp_path / "c", "c"), serving, {}, ALL)
    done = roll_back(serving)
    assert (done.withdrawn, done.restored) == (4, 3)


def test_a_rollback_keeps_as_many_as_the_last_push(tmp_path: Path) -> None:
    serving = pushed(tmp_path, "abc")
    push_version(make_model(tmp_path / "d", "d"), serving, {}, Retention(3, "gs://store"))
    assert versions(serving) == [2, 3, 4]
    assert last_retention(serving) == Retention(3, "gs://store")
    roll_back(serving)
    assert versions(serving) == [3, 4, 5]
    finish_rollback(serving)
    roll_back(serving, to=4, keep=2)
    assert versions(serving) == [5, 6]


def test_numbers_given_elsewhere_are_not_given_again(tmp_path: Path) -> None:
    serving = tmp_path / "serving"
    assert push_version(make_model(tmp_path / "a", "a"), serving, {}, ALL, above=7).name == "8"
    assert push_version(make_model(tmp_path / "b", "b"), serving, {}, ALL, above=3).name == "9"
    assert roll_back(serving, above=12).version.name == "13"


def test_the_newest_is_pushed_again_for_another_provenance(tmp_path: Path) -> None:
    serving = pushed(tmp_path, "a")
    assert push_version(tmp_path / "a", serving, {"mark": "why"}, ALL, again=True).name == "2"
    assert json.loads((serving / "2" / "assets.extra" / "provenance.json").read_text())["mark"] == "why"


# Says "go" once it is imported, then pushes.
PUSH = """
import sys
from pathlib import Path
from flexunet.serving.versions import Retention, push_version
model, serving = map(Path, sys.argv[1:3])
print("go", flush=True)
push_version(model, serving, {}, Retention(3))
"""


def push_and_perhaps_kill(model: Path, serving: Path, seconds: float | None) -> None:
    command = [sys.executable, "-c", PUSH, str(model), str(serving)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE) as pushing:
        assert pushing.stdout is not None and pushing.stdout.readline() == b"go\n"
        if seconds is not None:
            time.sleep(seconds)
            pushing.kill()
    assert seconds is not None or pushing.returncode == 0


class Reader(threading.Thread):
    """Looks every millisecond, as a server might at its worst moment, and notes what is not whole."""

    def __init__(self, serving: Path) -> None:
        super().__init__(daemon=True)
        self.serving, self.stop, self.looks = serving, threading.Event(), 0
        self.seen: list[int] = []
        self.broken: list[str] = []

    def run(self) -> None:
        while not self.stop.wait(0.001):
            self.looks += 1
            for number in versions(self.serving):
                if number not in self.seen:
                    self.look_at(number)

    def look_at(self, number: int) -> None:
        folder = self.serving / str(number)
        try:
            whole = pushed_hash(folder) == content_hash(folder)
        except FileNotFoundError:
            # Pruned in between: then it is no version any more.
            whole = number not in versions(self.serving)
        self.seen.append(number)
        if not whole or self.seen != sorted(self.seen):
            self.broken.append(f"version {number} after {self.seen}")


@pytest.mark.slow
def test_a_reader_never_sees_half_a_version_while_pushers_are_killed(tmp_path: Path) -> None:
    model, serving = make_model(tmp_path / "a", files=30), tmp_path / "serving"
    reader, delays = Reader(serving), np.random.default_rng(0).uniform(0, 0.03, 50)
    reader.start()
    for number, delay in enumerate(delays):
        (model / "saved_model.pb").write_text(str(number))
        push_and_perhaps_kill(model, serving, delay if number % 3 else None)
    reader.stop.set()
    reader.join()
    assert reader.broken == []
    assert reader.looks > 100
    # A third of the pushes was let be; of the others some came through.
    assert 17 <= len(reader.seen) < 50
    push_version(make_model(tmp_path / "last", "last"), serving, {}, Retention(3))
    assert len(versions(serving)) == 3
    assert sorted(p.name for p in serving.iterdir() if p.is_dir()) == sorted(str(v) for v in versions(serving))
