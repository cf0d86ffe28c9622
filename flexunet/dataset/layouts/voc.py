"""Pascal VOC and CVAT's "Segmentation mask": `JPEGImages/`, `SegmentationClass/`, `ImageSets/Segmentation/*.txt`,
`labelmap.txt`.
"""

from pathlib import Path, PurePosixPath

from flexunet.core.features import SPLITS
from flexunet.core.problems import Problem
from flexunet.core.readable import IMAGE_SUFFIXES
from flexunet.dataset.annotation import BadAnnotation
from flexunet.dataset.layouts.bounded import read_text
from flexunet.dataset.layouts.interface import Reader, Reading, Source, SourceClass
from flexunet.dataset.layouts.names import images_by_id, place, printable, split_named
from flexunet.dataset.layouts.pairing import Make, pair_up
from flexunet.dataset.pairs import Pair

_MASKS = "segmentationclass"
_LISTS = ("imagesets", "segmentation")
_BACKGROUND = "background"


def _signs(source: Source) -> str:
    masks = _masks(source)
    return f"masks in {PurePosixPath(next(iter(masks.values()))[0]).parent}" if masks else ""


def _read(source: Source) -> Reading:
    masks, images = _masks(source), images_by_id(source)
    listed, problems, lists = _listed(source)
    unlisted = {i: names for i, names in images.items() if lists and _stem(i) not in listed and i not in masks}
    used = {i: names for i, names in images.items() if i not in unlisted}
    reading = pair_up(source, used, masks, _make(source, listed))
    reading.problems += problems
    reading.reasons = {name: "in no list of ImageSets/Segmentation" for names in unlisted.values() for name in names}
    reading.read.update(lists, _labelmaps(source))
    for name in source.files.with_suffix(IMAGE_SUFFIXES):
        if "segmentationobject" in _folders(name):
            reading.reasons[name] = "masks of instances (SegmentationObject), which the masks of classes include"
    return reading


def _make(source: Source, listed: dict[str, str | None]) -> Make:
    return lambda pair_id, image, name: Pair(pair_id, image, source.root / name, listed.get(_stem(pair_id)))


def _masks(source: Source) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in source.files.with_suffix(IMAGE_SUFFIXES):
        if _MASKS in _folders(name):
            found.setdefault(place(name).id, []).append(name)
    return found


def _listed(source: Source) -> tuple[dict[str, str | None], list[Problem], list[str]]:
    """Split by stem, as the lists have it; problems; and the names of the lists."""
    split_by_stem: dict[str, str | None] = {}
    problems = []
    lists = [name for name in source.files.with_suffix({".txt"}) if _folders(name)[-2:] == _LISTS]
    for name in lists:
        split = split_named(PurePosixPath(name).stem)
        try:
            stems = read_text(source.root / name).split()
        except BadAnnotation as bad:
            problems.append(Problem(source.root / name, *bad.words))
            continue
        for stem in map(printable, stems):
            before = split_by_stem.setdefault(stem, split)
            if split and before and before != split:
                what = f"lists {stem}, which another list has in {before}"
                problems.append(Problem(source.root / name, what, f"one of {', '.join(SPLITS)}", "correct the lists"))
            split_by_stem[stem] = before or split
    return split_by_stem, problems, lists


def _classes(source: Source) -> list[SourceClass] | None:
    """Classes of CVAT's `labelmap.txt`: lines of `name:red,green,blue:parts:actions`."""
    names = _labelmaps(source)
    if not names:
        return None
    lines = [line.split(":") for line in read_text(source.root / names[0]).splitlines() if line.strip()]
    return [
        SourceClass(fields[0], _color(source.root / names[0], fields))
        for fields in lines
        if not fields[0].startswith("#") and fields[0] != _BACKGROUND
    ]


def _color(path: Path, fields: list[str]) -> tuple[int, int, int]:
    try:
        red, green, blue = (int(part) for part in fields[1].split(","))
    except (IndexError, ValueError):
        raise BadAnnotation(f"the line of {fields[0]!r} has no colour", "name:red,green,blue::", "correct it") from None
    return red, green, blue


def _labelmaps(source: Source) -> list[str]:
    return [name for name in source.files.names if PurePosixPath(name).name.casefold() == "labelmap.txt"]


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
