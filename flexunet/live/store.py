"""What a watch keeps, in a folder: for each hour a table of images and a few counts, and images if they are asked for.

    hours/2026-11-26T14.csv    a line for each image of a random sample of that hour, UTC; TFDV and spreadsheets read it
    hours/2026-11-26T14.json   how many requests and images there were
    images/random-*, images/unsure-*   as they were sent
    pairs/2026-11-26T14.jsonl          what a stable version and a canary said of the same images

Everything is bounded: the lines of an hour, the bytes of images, the days that anything is kept.
"""

import bisect
import contextlib
import csv
import hashlib
import io
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, get_args

from pydantic import TypeAdapter

from flexunet.core.errors import UserError, last_line
from flexunet.core.files import read_json, replace_file, replace_text, write_json
from flexunet.core.lock import LOCK_FILE, locked
from flexunet.live.observe import Seen
from flexunet.live.pairs import Pair, read_pairs, write_pair

HOUR_LINES: Final = 500
HOUR_SECONDS: Final = 3600
DAY_SECONDS: Final = 24 * HOUR_SECONDS
_HOURS: Final = "hours"
_IMAGES: Final = "images"
_PAIRS: Final = "pairs"
_FOLDERS: Final = (_HOURS, _IMAGES, _PAIRS)
# Beside them, what is printed, and what the last `live drift` found.
LOG_FILE: Final = "watch.log"
DRIFT_METRICS: Final = "drift.prom"
_HOUR_NAME: Final = "%Y-%m-%dT%H"
_SHARE: Final = "share of "
_COLUMNS: Final = tuple(f.name for f in fields(Seen) if f.name != "shares")
# From the text of a table.
_SEEN: Final = TypeAdapter(Seen)

Why = Literal["random", "unsure"]


@dataclass(frozen=True)
class Kept:
    """What is kept, and for how long.

    Attributes:
      directory: of it.
      days: after which it is removed.
      image_bytes: of all images together; 0: none is kept.
      camera_header: whose values tell cameras apart; "": none.
      beside: whether that is so as well for what watches that are gone left in the folders beside it.
    """

    directory: Path
    days: float
    image_bytes: int = 0
    camera_header: str = ""
    beside: bool = False


class Store:
    """Written by one process; what an earlier one left is gone on with."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._hours = hours_of(kept.directory)
        self._hours.mkdir(parents=True, exist_ok=True)
        self._hour: _Hour | None = None
        self._pairs: Counter[tuple[str, int, int]] = Counter()
        self._reservoirs = [Reservoir(kept.directory / _IMAGES, why, kept.image_bytes // 2) for why in get_args(Why)]

    def count(self, what: str, moment: float, number: int = 1) -> None:
        """Counts what happened at `moment`, in seconds since 1970."""
        if number:
            self._of(moment).count(what, number)

    def add(self, encoded: bytes, seen: Seen) -> None:
        """An image that was served."""
        self._of(seen.time).add(seen)
        if self._kept.image_bytes and seen.confidence is not None:
            for reservoir in self._reservoirs:
                reservoir.add(encoded, seen)

    def add_pair(self, pair: Pair) -> None:
        """What two versions said of an image; the first `HOUR_LINES` of these two in an hour are kept."""
        path = self._kept.directory / _PAIRS / f"{hour_name(pair.time)}.jsonl"
        theirs = (path.stem, pair.stable, pair.canary)
        if theirs not in self._pairs:
            # What an earlier process wrote takes room as well.
            self._pairs[theirs] = sum((one.stable, one.canary) == theirs[1:] for one in read_pairs(path))
        if self._pairs[theirs] < HOUR_LINES:
            write_pair(path, pair)
            self._pairs[theirs] += 1

    def flush(self) -> None:
        """Writes the hour that is under way."""
        if self._hour is not None:
            self._hour.write()

    def forget(self, now: float) -> None:
        """Removes what is older than it may be."""
        _forget(self._kept.directory, now - self._kept.days * DAY_SECONDS)
        if self._kept.beside:
            failed = _forget_beside(self._kept.directory, now - self._kept.days * DAY_SECONDS)
            self.count("times that a folder beside could not be cleared", now, failed)
        # Of this hour at most: an earlier process may have left some.
        self._pairs = Counter({key: number for key, number in self._pairs.items() if key[0] >= hour_name(now)})
        for reservoir in self._reservoirs:
            reservoir.look()

    def _of(self, moment: float) -> "_Hour":
        name = hour_name(moment)
        # A request that began in the hour before and ended in this one counts here; beyond that the clock was set back.
        if self._hour is None or not name <= self._hour.name <= hour_name(moment + HOUR_SECONDS):
            self.flush()
            self._hour = _Hour(self._hours, name)
        return self._hour


def hours_of(directory: Path) -> Path:
    """Where the tables of hours are."""
    return directory / _HOURS


def hour_name(moment: float) -> str:
    """Of seconds since 1970, in UTC; names sort as hours do."""
    return datetime.fromtimestamp(moment, UTC).strftime(_HOUR_NAME)


@dataclass
class _Hour:
    """A uniform sample of the lines of an hour (Vitter 1985, algorithm R), and exact counts."""

    directory: Path
    name: str
    lines: list[Seen] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    changed: bool = False

    def __post_init__(self) -> None:
        try:
            self.lines = [*read_lines(self.directory / f"{self.name}.csv")]
            self.counts.update(read_json(self.directory / f"{self.name}.json") or {})
        # As a loss of power leaves it: this hour is not worth all that come.
        except UserError:
            self.lines, self.counts = [], Counter({"times that an hour was damaged, and began again": 1})

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] += number
        self.changed = True

    def add(self, seen: Seen) -> None:
        self.count("images")
        self.count("refused images", int(not seen.valid))
        if len(self.lines) < HOUR_LINES:
            self.lines.append(seen)
        elif (place := random.randrange(self.counts["images"])) < HOUR_LINES:  # noqa: S311  no secret
            self.lines[place] = seen

    def write(self) -> None:
        if self.changed:
            write_lines(self.directory / f"{self.name}.csv", self.lines)
            write_json(self.directory / f"{self.name}.json", dict(self.counts))
            self.changed = False


class Reservoir:
    """The images of the highest priority that fit into so many bytes, by the names of their files.

    A random priority makes them a uniform sample of all that came, one minus the confidence the least sure ones.
    """

    def __init__(self, directory: Path, why: Why, most_bytes: int) -> None:
        self._directory, self._why, self._most = directory, why, most_bytes
        self.look()

    def look(self) -> None:
        """At what is there: an earlier process may have left images, and old ones are removed."""
        found = [path for path in _files(self._directory) if path.name.startswith(f"{self._why}-")]
        # The lowest priority first.
        self._kept = sorted((path.name, path.stat().st_size) for path in found)
        self._size = sum(size for _, size in self._kept)

    def add(self, encoded: bytes, seen: Seen) -> None:
        """Keeps the image if its priority is high enough."""
        confidence = 1.0 if seen.confidence is None else seen.confidence
        priority = random.random() if self._why == "random" else 1 - confidence  # noqa: S311  no secret
        digest = hashlib.sha256(encoded).hexdigest()[:12]
        name = f"{self._why}-{priority:.6f}-{digest}.{seen.kind or 'bin'}"
        if len(encoded) > self._most or self._has(name, len(encoded)):
            return
        while self._size + len(encoded) > self._most:
            if not self._kept or self._kept[0][0] >= name:
                return
            lowest, size = self._kept.pop(0)
            self._size -= size
            (self._directory / lowest).unlink(missing_ok=True)
        self._directory.mkdir(parents=True, exist_ok=True)
        replace_file(self._directory / name, encoded)
        bisect.insort(self._kept, (name, len(encoded)))
        self._size += len(encoded)

    def _has(self, name: str, size: int) -> bool:
        place = bisect.bisect_left(self._kept, (name, size))
        return self._kept[place : place + 1] == [(name, size)]


def _forget_beside(directory: Path, oldest: float) -> int:
    """Removes what is older of watches that are gone, in the folders beside: those of pods that were. Returns how many
    of these cannot be read, or cleared."""
    try:
        folders = [folder for folder in _files(directory.parent) if folder != directory]
    except OSError:
        return 1
    return sum(not _is_cleared(folder, oldest) for folder in folders)


def _is_cleared(folder: Path, oldest: float) -> bool:
    """Of what is older there, if a watch wrote it; False: it cannot be read, or removed."""
    try:
        if _is_of_watch(folder):
            # One that another watch writes to is its own business.
            with contextlib.suppress(UserError), locked(folder):
                _forget(folder, oldest)
                if not any(_kept_in(folder)):
                    _remove(folder)
    except OSError:
        return False
    return True


def _is_of_watch(folder: Path) -> bool:
    """Other people's folders may hold hours, too."""
    return (folder / _HOURS).is_dir() and all((folder / name).is_file() for name in (LOG_FILE, LOCK_FILE))


def _forget(folder: Path, oldest: float) -> None:
    for path in _kept_in(folder):
        if path.stat().st_mtime < oldest:
            path.unlink()


def _kept_in(folder: Path) -> list[Path]:
    return [path for name in _FOLDERS for path in _files(folder / name) if path.name != LOCK_FILE]


def _remove(folder: Path) -> None:
    """A folder that holds nothing any more of what was seen; what is not of a watch stays."""
    for name in _FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (DRIFT_METRICS, LOG_FILE):
        (folder / name).unlink(missing_ok=True)
    # It is held: where the folder stays, so does its lock.
    if [path.name for path in _files(folder)] == [LOCK_FILE]:
        with contextlib.suppress(OSError):
            (folder / LOCK_FILE).unlink()
            folder.rmdir()


def write_lines(path: Path, lines: list[Seen]) -> None:
    """A table with a column for each number, by one rename."""
    classes = sorted({name for line in lines for name in line.shares})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_COLUMNS, *(_SHARE + name for name in classes)])
    for line in lines:
        values = (getattr(line, name) for name in _COLUMNS)
        writer.writerow([*map(_spelled, values), *(_spelled(line.shares.get(name)) for name in classes)])
    replace_text(path, text.getvalue())


def read_lines(path: Path) -> Iterator[Seen]:
    """What `write_lines` wrote; nothing where there is no file.

    Raises:
      UserError: it is damaged.
    """
    if not path.is_file():
        return
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                shares = {k.removeprefix(_SHARE): float(v) for k, v in row.items() if k.startswith(_SHARE) and v}
                yield _SEEN.validate_python({name: row[name] for name in _COLUMNS if row[name]} | {"shares": shares})
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        words = f"not what a watch wrote ({last_line(error)}), expected a table with a line for each image: remove it"
        raise UserError(f"{path}: {words}") from None


def hours_since(directory: Path, begin: float) -> Iterator[tuple[str, list[Seen], dict[str, int]]]:
    """Name, lines and counts of the hours since `begin`, in seconds since 1970, the one that it lies in included."""
    for path in sorted((directory / _HOURS).glob("*.csv")):
        if path.stem >= hour_name(begin):
            # The one is written before the other.
            yield path.stem, [*read_lines(path)], read_json(path.with_suffix(".json")) or {}


def counted_since(directory: Path, begin: float, what: str) -> int:
    """How often something was counted in the hours since `begin`, the one that it lies in included."""
    return sum(counts.get(what, 0) for _, _, counts in hours_since(directory, begin))


def pairs_since(directory: Path, begin: float) -> list[Pair]:
    """What two versions said of the same images since `begin`, in seconds since 1970."""
    found = [pair for path in sorted((directory / _PAIRS).glob("*.jsonl")) for pair in read_pairs(path)]
    return [pair for pair in found if pair.time >= begin]


def _files(directory: Path) -> list[Path]:
    return [*directory.iterdir()] if directory.is_dir() else []


def _spelled(value: float | str | bool | None) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        # Seconds since 1970 have ten digits.
        return f"{value:.3f}" if value > 1e9 else f"{value:.6g}"
    return "" if value is None else str(value)
