"""Two versions on the same images, in numbers."""

import io
import socket
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from waiting import wait_until

from flexunet.live import store
from flexunet.live.exchange import Note, tell
from flexunet.live.pairs import UNANSWERED, Comparer, Pair, compared, compared_words, pair_of, read_pairs, write_pair
from flexunet.live.store import HOUR_SECONDS, Kept, Store, counted_since, hours_since, pairs_since
from flexunet.live.worker import Comparing, Looking, run
from flexunet.serving.client import Prediction
from flexunet.serving.model_config import Named

NOON = 1_795_608_000.0
NAMED = Named("/models/flexunet", 3, 4)
VERSIONS = (3, 4)
NAMES = ("background", "dent", "scratch")


def answer(share: float, confidence: float = 0.9, seconds: float = 0.02) -> Prediction:
    """Scratches over the upper share of ten rows."""
    class_ids = np.zeros((10, 10), np.uint8)
    class_ids[: round(10 * share)] = 2
    return Prediction(class_ids, np.array([1 - share, 0, share], np.float32), confidence, "", seconds, NAMES)


REFUSED = Prediction(np.zeros((0, 0), np.uint8), np.zeros(3, np.float32), 0.0, "no image", 0.01)


def test_where_two_versions_differ_is_told_by_class() -> None:
    pairs = [
        pair_of(answer(0.3), answer(0.3), NOON, VERSIONS),
        pair_of(answer(0.5), answer(0.0, 0.7, 0.04), NOON, VERSIONS),
        pair_of(answer(0.0), answer(0.1, 0.8, 0.06), NOON, VERSIONS),
        pair_of(answer(0.2), REFUSED, NOON, VERSIONS),
    ]
    found = compared(NAMED, pairs)
    assert (found["stable"], found["canary"], found["images"], found["refused"]) == (3, 4, 4, [0, 1])
    assert found["same_pixels"] == pytest.approx((1 + 0.5 + 0.9) / 3) and found["least_same_pixels"] == 0.5
    assert found["confidence"] == pytest.approx([0.9, 0.8]) and found["median_seconds"] == pytest.approx([0.02, 0.04])
    assert found["classes"] == {
        "dent": {"stable": 0, "canary": 0, "only_stable": 0, "only_canary": 0},
        "scratch": {"stable": 2, "canary": 2, "only_stable": 1, "only_canary": 1},
    }
    assert "4 images asked of both: 80.00% of the pixels are the same class" in compared_words(found)[0]
    assert "no image was compared" in compared_words(compared(NAMED, []))[0]


def test_what_other_versions_said_is_not_said_of_these() -> None:
    """A promotion, and a label that moved between the two questions."""
    theirs = pair_of(answer(0.3), answer(0.3), NOON, VERSIONS)
    others = [pair_of(answer(0.5), answer(0.0), NOON, versions) for versions in ((2, 3), (4, 4), (4, 5))]
    found = compared(NAMED, [*others, theirs])
    assert {**found, "other_versions": 0} == compared(NAMED, [theirs]) and found["other_versions"] == 3
    assert "left out: 3" in compared_words(found)[2]
    alone = compared(NAMED, others)
    assert (alone["images"], alone["same_pixels"]) == (0, None) and "left out: 3" in compared_words(alone)[1]


def test_answers_that_tell_no_version_are_not_said_of_other_versions() -> None:
    """A gateway in between, or a server of somebody else's, may fill in none."""
    theirs = pair_of(answer(0.3), answer(0.3), NOON, VERSIONS)
    untold = [pair_of(answer(0.5), answer(0.0), NOON, versions) for versions in ((0, 0), (3, 0))]
    found = compared(NAMED, [theirs, *untold])
    assert (found["images"], found["other_versions"], found["untold_versions"]) == (1, 0, 2)
    [note] = [line for line in compared_words(found) if "left out" in line]
    assert note.startswith("answered without telling a version, and left out: 2;")


def test_a_canary_that_answers_nothing_is_not_one_that_nobody_asked() -> None:
    refused = compared_words(compared(NAMED, [pair_of(answer(0.2), REFUSED, NOON, VERSIONS)] * 3))
    assert refused == ["3 images asked of both, none that both answered with masks of one size: refused 0, canary 3"]
    assert "2 times one of the two gave no answer at all" in compared_words(compared(NAMED, [], 2))[1]
    assert "2 times" in compared_words(compared(NAMED, [pair_of(answer(0.3), answer(0.3), NOON, VERSIONS)], 2))[2]


def test_what_was_compared_is_taken_down_while_looking_goes_on(tmp_path: Path) -> None:
    class Answered(Comparer):
        def __init__(self) -> None:
            pass

        def compare(self, encoded: bytes, moment: float) -> Pair:
            return pair_of(answer(0.3), answer(0.2), moment, VERSIONS)

    looking = Looking(Store(Kept(tmp_path, days=1)), "", Comparing(Answered()), 1.0)
    looking.comparing.ask(b"image", NOON)
    wait_until(lambda: bool(looking.take_down() or pairs_since(tmp_path, NOON)))
    assert [pair.time for pair in pairs_since(tmp_path, NOON)] == [NOON]
    source = io.BytesIO()
    tell(source, Note("images", NOON, 7))
    source.seek(0)
    run(source, looking)
    assert [counts["images"] for _, _, counts in hours_since(tmp_path, NOON)] == [7]


def test_a_version_that_hangs_or_fails_is_counted_and_keeps_nobody_from_looking(tmp_path: Path) -> None:
    told: list[Pair | Note] = []
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        comparing = Comparing(Comparer(f"127.0.0.1:{hanging.getsockname()[1]}"))
        started = time.monotonic()
        for _ in range(10):
            comparing.ask(b"image", NOON)
        assert time.monotonic() - started < 5
        told += comparing.told()
        assert {note.what for note in told if isinstance(note, Note)} == {"not compared: too many at once"}
        # One is asked, or waits like four others.
        assert 5 <= len(told) <= 6
    # It hangs up.
    wait_until(lambda: bool(told.extend(comparing.told())) or Note(UNANSWERED, NOON) in told)
    counts = Store(Kept(tmp_path, days=1))
    counts.count(UNANSWERED, NOON)
    counts.flush()
    assert counted_since(tmp_path, NOON, UNANSWERED) == 1 and counted_since(tmp_path, NOON + 3600, UNANSWERED) == 0


def test_a_model_that_tells_no_names_has_numbers() -> None:
    nameless = replace(answer(0.3), class_names=())
    assert {*pair_of(nameless, answer(0.3), NOON, VERSIONS).shares} == {
        "stable/1",
        "stable/2",
        "canary/dent",
        "canary/scratch",
    }
    other = replace(answer(0.3), class_ids=np.zeros((5, 5), np.uint8))
    assert pair_of(answer(0.3), other, NOON, VERSIONS).same is None


def test_what_is_kept_is_bounded_and_survives_a_broken_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "HOUR_LINES", 3)
    kept = Store(Kept(tmp_path, days=1))
    pair = pair_of(answer(0.3), answer(0.2), NOON, VERSIONS)
    for moment in (NOON, NOON + HOUR_SECONDS):
        for _ in range(5):
            kept.add_pair(replace(pair, time=moment))
    assert len(pairs_since(tmp_path, NOON)) == 6 and len(pairs_since(tmp_path, NOON + 1)) == 3
    # An earlier canary takes no room of the next.
    kept.add_pair(replace(pair, time=NOON + HOUR_SECONDS, stable=4, canary=5))
    assert [(one.stable, one.canary) for one in pairs_since(tmp_path, NOON + 1)] == [VERSIONS] * 3 + [(4, 5)]
    # Nor does a process that begins again give more.
    again = Store(Kept(tmp_path, days=1))
    again.add_pair(replace(pair, time=NOON + HOUR_SECONDS))
    assert len(pairs_since(tmp_path, NOON + 1)) == 4
    first, _ = sorted((tmp_path / "pairs").iterdir())
    first.write_bytes(first.read_bytes()[:-20])
    assert read_pairs(first) == [pair, pair]
    # What comes next is not lost with it.
    write_pair(first, pair)
    assert read_pairs(first) == [pair, pair, pair]
    kept.forget(NOON + 10**9)
    assert pairs_since(tmp_path, 0.0) == []
