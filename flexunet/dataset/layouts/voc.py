"""Pascal VOC and CVAT's "Segmentation mask": `JPEGImages/`, `SegmentationClass/`, `ImageSets/Segmentation/*.txt`,
`labelmap.txt`.
"""

from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from flexunet.core.features import SPLITS
from flexunet.core.finder import suffix_of
from flexunet.core.problems import Problem
from flexunet.core.readable import IMAGE_SUFFIXES
from flexunet.dataset.annotation import BadAnnotation
from flexunet.dataset.layouts.bounded import read_text
from flexunet.dataset.layouts.class_lists import LABELMAP, labelmap_classes
from flexunet.dataset.layouts.interface import Reader, Reading, Source, SourceClass
from flexunet.dataset.layouts.names import images_by_id, place, split_named
from flexunet.dataset.layouts.pairing import Make, pair_up
from flexunet.dataset.pairs import Pair

_MASKS = "segmentationclass"
_LISTS = ("imagesets", "segmentation")


def _signs(source: Source) -> str:
    masks = _masks(source)
    return f"masks in {PurePosixPath(next(iter(masks.values()))[0]).parent}" if masks else ""


def _read(source: Source) -> Reading:
    masks, images = _masks(source), images_by_id(source)
    listed = _listed(source, images.keys() | masks.keys())
    is_listed = listed.splits.keys() if listed.files else images.keys()
    unlisted = {i: names for i, names in images.items() if i not in is_listed and i not in masks}
    used = {i: names for i, names in images.items() if i not in unlisted}
    reading = pair_up(source, used, masks, _make(source, listed.splits))
    reading.problems += listed.problems
    reading.notes += listed.strays
    reading.reasons = {name: "in no list of ImageSets/Segmentation" for names in unlisted.values() for name in names}
    reading.read.update(listed.files, _labelmaps(source))
    for name in source.files.with_suffix(IMAGE_SUFFIXES):
        if "segmentationobject" in _folders(name):
            reading.reasons[name] = "masks of instances (SegmentationObject), which the masks of classes include"
    return reading


def _make(source: Source, listed: dict[str, str | None]) -> Make:
    return lambda pair_id, image, name: Pair(pair_id, image, source.root / name, listed.get(pair_id))


def _masks(source: Source) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in source.files.with_suffix(IMAGE_SUFFIXES):
        if _MASKS in _folders(name):
            found.setdefault(place(name).id, []).append(name)
    return found


class _Listed(NamedTuple):
    """What the lists say.

    Attributes:
      files: their names.
      splits: by the id of an image that is listed; None where the list's name is no split's.
      problems: of lists that contradict each other, or cannot be read.
      strays: which lines are of no image, a sentence for each list that has some.
    """

    files: list[str]
    splits: dict[str, str | None]
    problems: list[Problem]
    strays: list[str]


def _listed(source: Source, ids: Collection[str]) -> _Listed:
    """Reads the lists for the images and masks of these ids."""
    files = [name for name in source.files.with_suffix({".txt"}) if _folders(name)[-2:] == _LISTS]
    found = _Listed(files, {}, [], [])
    by_line: dict[str, list[str]] = {}
    for pair_id in ids:
        for line in {pair_id, _stem(pair_id)}:
            by_line.setdefault(line, []).append(pair_id)
    for name in files:
        try:
            lines = [line.strip() for line in read_text(source.root / name).splitlines() if line.strip()]
        except BadAnnotation as bad:
            found.problems.append(Problem(source.root / name, *bad.words))
            continue
        meant = [_meant(line, by_line, ids) or _meant(line.split()[0], by_line, ids) for line in lines]
        _add(found, source.root / name, [pair_id for several in meant for pair_id in several])
        strays = [line for line, several in zip(lines, meant, strict=True) if not several]
        if len(strays) == len(lines) > 0 and split_named(PurePosixPath(name).stem):
            what = f"none of its {len(lines)} lines is of an image, such as {strays[0]!r}"
            repair = "correct the list; without it images are assigned to splits anew"
            found.problems.append(Problem(source.root / name, what, "stems, or paths below SOURCE", repair))
        elif strays:
            found.strays.append(f"{len(strays)} of {len(lines)} lines of {name} are of no image, such as {strays[0]!r}")
    return found


def _meant(line: str, by_line: Mapping[str, list[str]], ids: Collection[str]) -> list[str]:
    """Ids of the images that a line names; a path that begins above the source, as `data/VOC2012/JPEGImages/a.jpg`, by
    as much of its end as is an image's whole id.
    """
    listed = _listed_id(line)
    endings = [listed.split("/", count)[-1] for count in range(1, listed.count("/") + 1)]
    return by_line.get(listed) or next(([ending] for ending in endings if ending in ids), [])


def _add(found: _Listed, path: Path, ids: list[str]) -> None:
    split = split_named(path.stem)
    for pair_id in ids:
        before = found.splits.setdefault(pair_id, split)
        if split and before and before != split:
            what = f"lists {pair_id}, which another list has in {before}"
            found.problems.append(Problem(path, what, f"one of {', '.join(SPLITS)}", "correct the lists"))
        found.splits[pair_id] = before or split


def _listed_id(line: str) -> str:
    """Of `2007_000032`, as VOC has it; of `line 1/a`, `JPEGImages/a.jpg` and the `a` of `a 1`, as others do."""
    # Datumaro puts names with spaces in quotes.
    name = line[1:].partition('"')[0] if line.startswith('"') else line
    name = name.replace("\\", "/").removeprefix("./").strip("/")
    return place(name if suffix_of(name) in IMAGE_SUFFIXES else f"{name}.png").id


def _classes(source: Source) -> list[SourceClass] | None:
    """Those of CVAT's `labelmap.txt`, if there is one."""
    names = _labelmaps(source)
    return labelmap_classes(source.root / names[0]) if names else None


def _labelmaps(source: Source) -> list[str]:
    return [name for name in source.files.names if PurePosixPath(name).name.casefold() == LABELMAP]


def _folders(name: str) -> tuple[str, ...]:
    return tuple(folder.casefold() for folder in PurePosixPath(name).parts[:-1])


def _stem(pair_id: str) -> str:
    return pair_id.rpartition("/")[2]


READER = Reader(
    "voc",
    "JPEGImages/ and SegmentationClass/, as Pascal VOC and CVAT have them",
    _signs,
    _read,
    _classes,
    stronger_than=("folders",),
)
