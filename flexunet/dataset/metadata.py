"""A CSV of facts about the images (line, furnace, camera, ...), carried into the records for slices."""

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from flexunet.core.finder import nfc, stem_and_suffix, suffix_of
from flexunet.core.problems import Problem
from flexunet.core.readable import IMAGE_SUFFIXES
from flexunet.dataset.pairs import Pair

STEM_COLUMN: Final = "stem"
# One word, so that it can stand in a record's key and in a slice.
_COLUMN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def read_metadata(path: Path, pairs: Sequence[Pair]) -> tuple[dict[str, dict[str, str]], list[Problem]]:
    """Column values for each image id, and what is wrong with the file.

    The column `stem` holds the image's stem or its id; every image needs a row, and every row an image.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            columns = list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return {}, [Problem(path, f"cannot be read ({error})", "a CSV file in UTF-8", "check --metadata")]
    problems = _check_columns(path, columns) or _check_rows(path, rows, columns)
    if problems:
        return {}, problems
    by_stem = {nfc(row[STEM_COLUMN]): {c: row[c] for c in columns if c != STEM_COLUMN} for row in rows}
    return _match(path, by_stem, pairs)


def _check_columns(path: Path, columns: Sequence[str]) -> list[Problem]:
    problems = []
    if STEM_COLUMN not in columns:
        found = ", ".join(columns) or "none"
        others = len(columns) == 1 and any(mark in columns[0] for mark in ";\t|")
        repair = "separate the columns by commas" if others else "add or rename it"
        problems.append(Problem(path, f"has the columns {found}", f"one named {STEM_COLUMN}", repair))
        if others:
            return problems
    wrong = [c for c in columns if not _COLUMN.fullmatch(c) or columns.count(c) > 1]
    if wrong:
        expected = "different names of letters, digits and _"
        problems.append(Problem(path, f"has a column named {wrong[0]!r}", expected, "rename it"))
    return problems


def _check_rows(path: Path, rows: Sequence[Mapping[str | None, object]], columns: Sequence[str]) -> list[Problem]:
    problems = []
    seen: set[object] = set()
    for number, row in enumerate(rows, start=2):
        stem = nfc(str(row[STEM_COLUMN]))
        if None in row or any(row[column] is None for column in columns):
            what = f"line {number} has too many or too few values"
            problems.append(Problem(path, what, f"{len(columns)}, as in the header", "correct the line"))
        elif stem in seen:
            problems.append(Problem(path, f"line {number} repeats {stem}", "one line for each image", "remove one"))
        seen.add(stem)
    return problems


def _match(
    path: Path, by_stem: dict[str, dict[str, str]], pairs: Sequence[Pair]
) -> tuple[dict[str, dict[str, str]], list[Problem]]:
    keys = {pair.id: pair.id if pair.id in by_stem else pair.id.rpartition("/")[2] for pair in pairs}
    missing = [pair_id for pair_id, key in keys.items() if key not in by_stem]
    strays = by_stem.keys() - keys.values()
    if strays and all(suffix_of(stem) in IMAGE_SUFFIXES for stem in strays):
        first = min(strays)
        what = f"{len(strays)} values of {STEM_COLUMN} have a suffix, such as {first}"
        return {}, [Problem(path, what, f"stems, such as {stem_and_suffix(first)[0]}", "leave the suffixes out")]
    shared = Counter(key for key in keys.values() if key in by_stem)
    problems = [Problem(path, f"no line for image {i}", "one for each image", "add it") for i in missing]
    problems += [
        Problem(path, f"a line for {stem}, which is no image", "one for each image", "remove it")
        for stem in sorted(strays)
    ]
    problems += [
        Problem(path, f"the line for {stem} could mean {count} images", "one image", "write their paths instead")
        for stem, count in shared.items()
        if count > 1
    ]
    return {pair_id: by_stem[key] for pair_id, key in keys.items() if key in by_stem}, problems
