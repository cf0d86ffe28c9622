"""Severstal's steel: `train.csv` with `ImageId, ClassId, EncodedPixels`; an image without a line shows no defect."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np

from flexunet.core.config.whole import Config
from flexunet.core.problems import Problem
from flexunet.core.readable import IMAGE_SUFFIXES
from flexunet.dataset.annotation import Annotation, Background, BadAnnotation, Drawn, paint
from flexunet.dataset.layouts.interface import Reader, Reading, Source, SourceClass
from flexunet.dataset.layouts.names import printable
from flexunet.dataset.pairs import Pair

_HEADER: Final = ("ImageId", "ClassId", "EncodedPixels")
# `sample_submission.csv` lies in the set's archive: a run of one pixel for each class of each image of the contest.
_NO_TRUTH: Final = "submission"
_OLD_HEADER: Final = ("ImageId_ClassId", "EncodedPixels")
# The longest line of a 50-megapixel image, every second pixel a run.
_FIELD_BYTES: Final = 512 * 2**20


@dataclass(frozen=True)
class Runs(Annotation):
    """Run lengths down the columns, from pixel 1 on.

    Attributes:
      lines: of each region the class id, the line of the CSV, and starts and lengths as int64 `[R, 2]` in bytes.
    """

    tells_size = False

    lines: tuple[tuple[int, int, bytes], ...]

    def read(self) -> bytes:
        return b"\0".join(f"{class_id}".encode() + b"\0" + runs for class_id, _, runs in self.lines)

    def draw(self, content: bytes, size: tuple[int, int], config: Config) -> Drawn:
        width, height = size
        regions = []
        for class_id, line, packed in self.lines:
            if not 1 <= class_id < len(config.classes):
                choices = ", ".join(f"{i} {c.name}" for i, c in enumerate(config.classes) if i)
                raise BadAnnotation(f"line {line}: ClassId {class_id}", f"one of {choices}", "correct [[classes]]")
            runs = np.frombuffer(packed, np.int64).reshape(-1, 2)
            ends = runs.clip(max=width * height + 1).sum(axis=1) - 1
            if runs.min() < 1 or ends.max() > width * height:
                what = f"line {line}: runs outside of its image"
                raise BadAnnotation(what, f"1 to {width * height}, for {width}x{height}", "correct it")
            region = np.zeros(width * height, np.bool_)
            for start, length in runs.tolist():
                region[start - 1 : start - 1 + length] = True
            regions.append((class_id, region.reshape(width, height).T))
        return paint(regions, size, config.records.overlaps)


def _signs(source: Source) -> str:
    tables = _tables(source)
    return tables[0] if tables else ""


def _read(source: Source) -> Reading:
    reading = Reading()
    lines: dict[str, list[tuple[int, int, bytes]]] = {}
    owner: dict[str, Path] = {}
    for table in _tables(source):
        reading.read.add(table)
        try:
            for image, class_id, line, packed in _rows(source.root / table):
                if owner.setdefault(image, source.root / table) != source.root / table:
                    what = f"has lines of {image}, as {owner[image].relative_to(source.root)} has"
                    raise BadAnnotation(what, "one table of an image", "remove the one that is no truth")
                found = lines.setdefault(image, [])
                if packed:
                    found.append((class_id, line, packed))
        except BadAnnotation as bad:
            reading.problems.append(Problem(source.root / table, *bad.words))
    reading.reasons = dict.fromkeys(_of_contests(source), "tables of a contest's submission, which is no truth")
    if reading.problems:
        reading.reasons |= dict.fromkeys(source.files.with_suffix(IMAGE_SUFFIXES), "images of a table that is damaged")
        return reading
    _pair(source, reading, lines, owner)
    return reading


def _pair(
    source: Source, reading: Reading, lines: dict[str, list[tuple[int, int, bytes]]], owner: dict[str, Path]
) -> None:
    by_name: dict[str, list[str]] = {}
    for name in source.files.with_suffix(IMAGE_SUFFIXES):
        by_name.setdefault(PurePosixPath(printable(name)).name, []).append(name)
    labelled = {PurePosixPath(name).parent for image in lines for name in by_name.get(image, ())}
    clean = 0
    for image, names in by_name.items():
        inside = [name for name in names if PurePosixPath(name).parent in labelled]
        reading.reasons.update(
            dict.fromkeys(set(names) - set(inside), "images in a folder of which the CSV names none")
        )
        reading.read.update(inside)
        if len(inside) > 1:
            what = f"{len(inside)} images named {image}"
            reading.problems.append(Problem(source.root / inside[0], what, "one", "remove or rename the others"))
        elif inside:
            path, found = source.root / inside[0], lines.get(image, [])
            annotation = Runs(tuple(found)) if found else Background()
            clean += not found
            reading.pairs.append(Pair(PurePosixPath(image).stem, path, owner.get(image, path), None, annotation))
    for image in lines.keys() - by_name.keys():
        what = f"has lines of {image}, which is not there"
        reading.problems.append(Problem(owner[image], what, "images below SOURCE", "add it or remove its lines"))
    if clean:
        reading.notes.append(f"{clean} images without run lengths in the CSV are background as a whole")


def _rows(path: Path) -> list[tuple[str, int, int, bytes]]:
    """Image name, class id, line and packed runs of each row; runs are empty where the row has none."""
    csv.field_size_limit(_FIELD_BYTES)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            _require_columns(reader.fieldnames or [])
            return [_row(row, reader.line_num) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadAnnotation(f"cannot be read ({error})", "a CSV file in UTF-8", "save it anew") from None
    except OSError as error:
        raise BadAnnotation(f"cannot be read ({error.strerror})", "a readable file", "replace it") from None


def _require_columns(columns: Sequence[str]) -> None:
    if sorted(columns) not in (sorted(_HEADER), sorted(_OLD_HEADER)):
        raise BadAnnotation(f"has the columns {', '.join(columns)}", ", ".join(_HEADER), "remove or rename the others")


def _row(row: dict[str | None, str | None], line: int) -> tuple[str, int, int, bytes]:
    image, number = row.get("ImageId"), row.get("ClassId")
    if image is None:
        image, _, number = (row.get("ImageId_ClassId") or "").rpartition("_")
    try:
        if None in row or not image:
            raise ValueError
        numbers = np.array([int(part) for part in (row["EncodedPixels"] or "").split()], np.int64)
        # A row without runs may have no class either.
        class_id = 0 if numbers.size == 0 and not number else _whole(number or "")
    except (ValueError, OverflowError):
        expected = f"{', '.join(_HEADER)}, the last pairs of start and length"
        raise BadAnnotation(f"line {line} cannot be read", expected, "correct it") from None
    if len(numbers) % 2:
        raise BadAnnotation(
            f"line {line} has {len(numbers)} numbers of runs", "pairs of start and length", "correct it"
        )
    return printable(image), class_id, line, numbers.tobytes()


def _whole(number: str) -> int:
    """A number that pandas wrote, which makes 1 a 1.0 where some rows have none."""
    return int(number.removesuffix(".0"))


def _tables(source: Source) -> list[str]:
    """Those of the truth; one that is there alone is, whatever its name."""
    tables = _with_header(source)
    return [name for name in tables if not _is_of_contest(name)] or tables


def _of_contests(source: Source) -> list[str]:
    return sorted({*_with_header(source)} - {*_tables(source)})


def _is_of_contest(name: str) -> bool:
    return _NO_TRUTH in name.rpartition("/")[2].casefold()


def _with_header(source: Source) -> list[str]:
    return [name for name in source.files.with_suffix({".csv"}) if _has_header(source.root / name)]


def _has_header(path: Path) -> bool:
    """Whether its first line names Severstal's column of run lengths; others are refused when it is read."""
    try:
        with path.open("rb") as file:
            columns = file.readline(1000).removeprefix(b"\xef\xbb\xbf").decode("ascii", "replace").strip().split(",")
    except OSError:
        return False
    return _HEADER[-1] in columns


def _classes(source: Source) -> list[SourceClass]:
    found = [row for table in _tables(source) for row in _rows(source.root / table)]
    return [SourceClass(f"defect {number}") for number in range(1, max((row[1] for row in found), default=0) + 1)]


READER = Reader(
    "severstal", "a CSV of ImageId, ClassId and EncodedPixels, as Severstal's set has it", _signs, _read, _classes
)
