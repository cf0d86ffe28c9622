"""Brings images and what tells their classes together by id; what stays alone is a mistake that is named."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from flexunet.core.problems import Problem
from flexunet.dataset.annotation import Annotation, Background
from flexunet.dataset.layouts.interface import Reading, Source
from flexunet.dataset.layouts.names import GOOD_FOLDERS, split_of
from flexunet.dataset.pairs import Pair

_FLAG = "--no-mask-is-background"

# Makes a pair from its id, its image and the other file's name.
Make = Callable[[str, Path, str], Pair]


def mask_file(source: Source) -> Make:
    """Pairs whose mask is a file of its own."""
    return lambda pair_id, image, name: Pair(pair_id, image, source.root / name, split_of(pair_id))


def annotated(source: Source, annotation: Callable[[Path], Annotation]) -> Make:
    """Pairs whose mask is drawn from a file."""

    def make(pair_id: str, image: Path, name: str) -> Pair:
        path = source.root / name
        return Pair(pair_id, image, path, split_of(pair_id), annotation(path))

    return make


def pair_up(
    source: Source,
    images: Mapping[str, Sequence[str]],
    others: Mapping[str, Sequence[str]],
    make: Make,
    what: str = "mask",
) -> Reading:
    """One pair for each id that has one image and one other file.

    Args:
      source: tells what an image without the other is.
      images: names by id.
      others: likewise.
      make: makes the pair.
      what: the other file, in a word.
    """
    reading = Reading()
    article = "an" if what[0] in "aeiou" else "a"
    for names in (*images.values(), *others.values()):
        reading.read.update(names)
    reading.problems += [*_several(source, images, "image"), *_several(source, others, what)]
    reading.problems += _alone(source, images, others, "image", f"{article} {what}")
    reading.problems += _alone(source, others, images, what, "an image")
    for pair_id, names in images.items():
        if len(names) == 1 and len(others.get(pair_id, ())) == 1:
            reading.pairs.append(make(pair_id, source.root / names[0], others[pair_id][0]))
        elif len(names) == 1 and pair_id not in others and is_clean(source, pair_id):
            reading.pairs.append(background(source, pair_id, names[0]))
    without = [pair_id for pair_id in images if pair_id not in others]
    reading.notes += clean_notes(source, without, images.keys() & others.keys())
    return reading


def background(source: Source, pair_id: str, name: str) -> Pair:
    """An image that shows no defect."""
    image = source.root / name
    return Pair(pair_id, image, image, split_of(pair_id), Background())


def is_clean(source: Source, pair_id: str) -> bool:
    """Whether an image without a mask is known to show no defect."""
    return source.no_mask_is_background or _good_folder(pair_id) is not None


def clean_notes(source: Source, without: Sequence[str], labelled: Iterable[str]) -> list[str]:
    """Which images `without` a mask count as background, and why; `labelled` are the ids of the others."""
    good = [pair_id for pair_id in without if _good_folder(pair_id)]
    notes = []
    if good:
        folders = ", ".join(sorted({_good_folder(pair_id) or "" for pair_id in good}))
        notes.append(f"{len(good)} images without a mask, in folders named {folders}, are background as a whole")
    if source.no_mask_is_background and len(without) > len(good):
        notes.append(f"{len(without) - len(good)} images without a mask are background as a whole ({_FLAG})")
        some = {_folder(pair_id) for pair_id in labelled}
        bare = sorted({_folder(pair_id) for pair_id in {*without} - {*good}} - some) if some else []
        notes += (
            [f"no image in {', '.join(bare)} has a mask: are they free of defects, or not labelled?"] if bare else []
        )
    return notes


def _folder(pair_id: str) -> str:
    return pair_id.rpartition("/")[0] or "SOURCE itself"


def _good_folder(pair_id: str) -> str | None:
    return next((folder for folder in pair_id.split("/")[:-1] if folder.casefold() in GOOD_FOLDERS), None)


def _several(source: Source, files: Mapping[str, Sequence[str]], role: str) -> list[Problem]:
    return [
        Problem(
            source.root / names[0],
            f"{len(names)} {role}s for {pair_id}: {', '.join(_apart(names))}",
            "one",
            "remove or rename the others",
        )
        for pair_id, names in files.items()
        if len(names) > 1
    ]


def _apart(names: Sequence[str]) -> Sequence[str]:
    """Without their folders, where that tells them apart."""
    short = [name.rpartition("/")[2] for name in names]
    return short if len({*short}) == len(short) else names


def _alone(
    source: Source, files: Mapping[str, Sequence[str]], others: Mapping[str, Sequence[str]], role: str, other: str
) -> list[Problem]:
    repair = f"add it or remove this {role}"
    if role == "image":
        repair = f"add it, remove this image, or use {_FLAG} if such images show no defect"
    return [
        Problem(source.root / names[0], f"{role} without {other}", f"{other} with the same path and stem", repair)
        for pair_id, names in files.items()
        if pair_id not in others and not (role == "image" and is_clean(source, pair_id))
    ]
