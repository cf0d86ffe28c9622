"""What a watch keeps: a fair sample, exact counts, and never more than it may."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flexunet.core.errors import UserError
from flexunet.core.lock import LOCK_FILE, locked
from flexunet.live.observe import Seen
from flexunet.live.store import (
    DRIFT_METRICS,
    HOUR_LINES,
    HOUR_SECONDS,
    LOG_FILE,
    Kept,
    Store,
    hour_name,
    hours_since,
    read_lines,
    write_lines,
)

NOON = 1_795_608_000.0
SEEN = Seen(
    *(NOON, 0.02, 3, True, 'line, "3"', "png", 640, 480),
    *(118.25, 30.5, 0.25, 0.875, {"scratch": 0.125, "dent": 0.0}),
)


def test_a_table_holds_what_was_seen(tmp_path: Path):
    refused = Seen(NOON, 0.01, 3, valid=False)
    without_grey = Seen(NOON, 0.02, 3, True, confidence=0.5, shares={"scratch": 1.0})
    write_lines(tmp_path / "a.csv", [SEEN, refused, without_grey])
    assert [*read_lines(tmp_path / "a.csv")] == [SEEN, refused, without_grey]
    assert [*read_lines(tmp_path / "missing.csv")] == []


def test_hours_are_told_apart_and_gone_on_with(tmp_path: Path):
    for start in range(2):
        store = Store(Kept(tmp_path, days=30))
        for hour in (0, 1):
            moment = NOON + hour * HOUR_SECONDS
            store.count("requests", moment, 2)
            store.add(b"", replace(SEEN, time=moment + start))
        store.flush()
    assert hour_name(NOON) == "2026-11-25T12"
    found = [*hours_since(tmp_path, NOON)]
    # The second process was too late for the first hour: it counts where it is.
    assert [(name, len(lines), counts["requests"]) for name, lines, counts in found] == [
        ("2026-11-25T12", 2, 4),
        ("2026-11-25T13", 2, 4),
    ]
    assert [name for name, _, _ in hours_since(tmp_path, NOON + HOUR_SECONDS)] == ["2026-11-25T13"]


def test_a_clock_that_was_wrong_holds_no_hour(tmp_path: Path):
    """Set right after it was ten years ahead, and set back again by hours."""
    store = Store(Kept(tmp_path, days=30))
    for hour in (10 * 365 * 24, 0, -3, -1, 0):
        store.add(b"", replace(SEEN, time=NOON + hour * HOUR_SECONDS))
    store.flush()
    found = {name: counts["images"] for name, _, counts in hours_since(tmp_path, 0.0)}
    assert found == {"2026-11-25T09": 1, "2026-11-25T11": 1, "2026-11-25T12": 2, "2036-11-22T12": 1}


def test_an_hour_that_is_damaged_begins_again_and_says_so(tmp_path: Path):
    for damaged in ("csv", "json"):
        store = Store(Kept(tmp_path, days=30))
        store.add(b"", SEEN)
        store.flush()
        (tmp_path / "hours" / f"2026-11-25T12.{damaged}").write_bytes(b"\0" * 100 + b"\n\0\n")
        with pytest.raises(UserError, match=f"T12.{damaged}: not what"):
            [*hours_since(tmp_path, 0.0)]
        store = Store(Kept(tmp_path, days=30))
        store.add(b"", SEEN)
        store.flush()
        [(_, lines, counts)] = hours_since(tmp_path, 0.0)
        assert lines == [SEEN]
        assert counts == {"times that an hour was damaged, and began again": 1, "images": 1, "refused images": 0}


def test_an_hour_is_a_fair_sample(tmp_path: Path):
    """Each tenth of ten thousand images has a tenth of the lines."""
    store = Store(Kept(tmp_path, days=30))
    for number in range(10_000):
        store.add(b"", replace(SEEN, width=number))
    store.flush()
    [(_, lines, counts)] = hours_since(tmp_path, NOON)
    assert (len(lines), counts["images"]) == (HOUR_LINES, 10_000)
    tenths = Counter((line.width or 0) // 1000 for line in lines)
    # Of 500 in ten parts: 50, and a deviation of 7.
    assert all(15 <= tenths[part] <= 85 for part in range(10))


def images(folder: Path, why: str) -> Iterator[Path]:
    return (folder / "images").glob(f"{why}-*")


def test_images_are_those_of_least_confidence_and_some_at_random_within_the_bytes(tmp_path: Path):
    kept = Kept(tmp_path, days=30, image_bytes=2 * 20 * 1000)
    for half in range(2):
        store = Store(kept)
        for number in range(half * 150, (half + 1) * 150):
            content = number.to_bytes(2, "big") + bytes(998)
            store.add(content, replace(SEEN, confidence=1 - number / 300 / 2))
    unsure = sorted(int.from_bytes(path.read_bytes()[:2], "big") for path in images(tmp_path, "unsure"))
    assert unsure == [*range(280, 300)]
    drawn = [int.from_bytes(path.read_bytes()[:2], "big") for path in images(tmp_path, "random")]
    assert len(drawn) == 20 and 60 < np.mean(drawn) < 240
    # What alone is larger than all may be is not kept.
    store.add(bytes(30_000), replace(SEEN, confidence=0.0))
    assert len([*images(tmp_path, "unsure")]) == 20


def test_nothing_but_numbers_is_kept_unless_it_is_asked_for(tmp_path: Path):
    store = Store(Kept(tmp_path, days=30))
    store.add(b"an image", SEEN)
    store.flush()
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"2026-11-25T12.csv", "2026-11-25T12.json"}


def test_what_is_old_is_forgotten(tmp_path: Path):
    store = Store(Kept(tmp_path, days=2, image_bytes=100_000))
    store.add(b"x", SEEN)
    store.flush()
    for path in tmp_path.rglob("*.*"):
        os.utime(path, (NOON, NOON))
    store.forget(NOON + 2 * 24 * HOUR_SECONDS - 1)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 4
    store.forget(NOON + 2 * 24 * HOUR_SECONDS + 1)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    store.add(b"x", replace(SEEN, time=NOON + 3 * 24 * HOUR_SECONDS))
    assert len([*images(tmp_path, "random")]) == 1


def test_what_watches_that_are_gone_left_beside_is_forgotten_too_and_no_more(tmp_path: Path):
    """Pods have a folder each, and their names never come back."""
    names = ("old", "newer", "running", "noted", "bad", "own", "theirs")
    old, newer, running, noted, bad, own, theirs = (tmp_path / name for name in names)
    for folder in (old, newer, running, noted, bad, theirs):
        store = Store(Kept(folder, days=2, image_bytes=100_000))
        store.add(b"x", SEEN)
        store.flush()
        (folder / DRIFT_METRICS).write_text("")
        if folder == bad:
            # What no file can be removed as.
            (folder / "pairs" / "folder.d").mkdir(parents=True)
        if folder == noted:
            (folder / "notes.txt").write_text("")
        if folder != theirs:
            # As every watch leaves them.
            (folder / LOG_FILE).write_text("")
            (folder / LOCK_FILE).touch()
        for path in folder.rglob("*.*"):
            os.utime(path, (NOON, NOON) if folder != newer else None)
    (tmp_path / "other" / "images").mkdir(parents=True)
    (tmp_path / "other" / "images" / "mine.png").write_bytes(b"mine")
    later = NOON + 3 * 24 * HOUR_SECONDS
    for path in (newer, tmp_path / "other"):
        for file in path.rglob("*.*"):
            os.utime(file, (later, later) if path == newer else (0, 0))
    Store(Kept(own, days=2)).forget(later)
    assert old.exists()
    store = Store(Kept(own, days=2, beside=True))
    with locked(running):
        store.forget(later)
    assert {path.name for path in tmp_path.iterdir()} == {*names, "other"} - {"old"}
    assert {path.name for path in noted.iterdir()} == {"notes.txt", LOCK_FILE}
    assert len([*(theirs / "hours").iterdir()]) == 2
    store.flush()
    assert [counts for *_, counts in hours_since(own, 0.0)] == [{"times that a folder beside could not be cleared": 1}]
    assert len([*(running / "images").iterdir()]) == 2 and len([*(newer / "hours").iterdir()]) == 2
    assert (tmp_path / "other" / "images" / "mine.png").exists()


@pytest.mark.slow
def test_memory_and_disk_are_flat_over_a_hundred_thousand_images(tmp_path: Path):
    """A day of 100,000 images of 20 KB: nothing grows between the tenth and the last part of it."""
    import tracemalloc

    store = Store(Kept(tmp_path, days=30, image_bytes=4_000_000))
    generator = np.random.default_rng(0)
    sizes = []
    tracemalloc.start()
    for part in range(20):
        for number in range(5000):
            content = generator.bytes(64) * 300
            moment = NOON + (part * 5000 + number) / 100_000 * 23 * HOUR_SECONDS
            store.add(content, replace(SEEN, time=moment, confidence=float(generator.random())))
        store.flush()
        stored = sum(path.stat().st_size for path in (tmp_path / "images").iterdir())
        sizes.append((tracemalloc.get_traced_memory()[0], stored))
    tracemalloc.stop()
    (memory, disk), (memory_last, disk_last) = sizes[9], sizes[-1]
    assert memory_last < 1.1 * memory + 1_000_000 and disk_last <= 4_000_000 and disk > 3_500_000
    # 23 hours of 500 lines.
    assert sum(path.stat().st_size for path in (tmp_path / "hours").iterdir()) < 2_000_000
