"""Finds images and masks in a user's folders and pairs them by path, never by the order of a listing."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flexunet.core.errors import UserError
from flexunet.core.features import SPLIT_EVAL, SPLIT_TEST, SPLIT_TRAIN
from flexunet.core.problems import Problem
from flexunet.core.readable import SUFFIXES

IMAGE_FOLDERS: Final = frozenset({"images"})
MASK_FOLDERS: Final = frozenset({"masks", "annotations"})

# Folder names that other layouts use for our splits.
_SPLIT_FOLDERS: Final = {
    "train": SPLIT_TRAIN,
    "training": SPLIT_TRAIN,
    "valid": SPLIT_EVAL,
    "validation": SPLIT_EVAL,
    "val": SPLIT_EVAL,
    "eval": SPLIT_EVAL,
    "test": SPLIT_TEST,
    "testing": SPLIT_TEST,
}


@dataclass(frozen=True)
class Pair:
    """An image and its mask; `id` is their common path below the source, without role folder and suffix."""

    id: str
    image: Path
    mask: Path
    split: str | None


@dataclass(frozen=True)
class Layout:
    """What lies in the source, in words, and its pairs sorted by id."""

    description: str
    pairs: list[Pair]
    problems: list[Problem]

    @property
    def has_splits(self) -> bool:
        return any(pair.split is not None for pair in self.pairs)


def find_pairs(source: Path) -> Layout:
    """Walks `source` for `images/` beside `masks/` or `annotations/`, with split folders above or below them."""
    if not source.is_dir():
        return Layout(
            "nothing", [], [Problem(source, "no such folder", "a folder of images and masks", "check SOURCE")]
        )
    images, masks = _by_id(source, IMAGE_FOLDERS), _by_id(source, MASK_FOLDERS)
    problems = [*_duplicates(images, "image"), *_duplicates(masks, "mask")]
    problems += _orphans(images, masks, "image", "a mask") + _orphans(masks, images, "mask", "an image")
    pairs = [
        Pair(pair_id, images[pair_id][0], masks[pair_id][0], _split_of(pair_id))
        for pair_id in sorted(images.keys() & masks.keys())
        if len(images[pair_id]) == len(masks[pair_id]) == 1
    ]
    if not images and not masks:
        expected = "images/ beside masks/ or annotations/, as in SOURCE/images/a.png and SOURCE/masks/a.png"
        problems.append(Problem(source, "no images found", expected, "move or rename the folders"))
    return Layout(_describe(source, pairs), pairs, problems)


def _by_id(source: Path, role_folders: frozenset[str]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    # Not rglob: it does not enter folders that are links. Names with a leading dot are not the user's.
    folders = sorted(
        (Path(folder), sorted(names)) for folder, _, names in os.walk(source, followlinks=True, onerror=_refuse)
    )
    for folder, names in folders:
        kept = list(folder.relative_to(source).parts)
        role = next((part for part in kept if part in role_folders), None)
        if role is None:
            continue
        kept.remove(role)
        for name in names:
            path = folder / name
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                found.setdefault("/".join([*kept, path.stem]), []).append(path)
    return found


def _refuse(error: OSError) -> None:
    """os.walk would leave the folder out."""
    raise UserError(
        f"{error.filename}: cannot be listed ({error.strerror}), expected a readable folder: correct its permissions"
    )


def _duplicates(files: dict[str, list[Path]], role: str) -> Iterable[Problem]:
    for pair_id, paths in files.items():
        if len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            yield Problem(
                paths[0], f"{len(paths)} {role}s for {pair_id}: {names}", "one", "remove or rename the others"
            )


def _orphans(files: dict[str, list[Path]], others: dict[str, list[Path]], role: str, other: str) -> list[Problem]:
    return [
        Problem(
            paths[0],
            f"{role} without {other}",
            f"{other} with the same path and stem",
            f"add it or remove this {role}",
        )
        for pair_id, paths in files.items()
        if pair_id not in others
    ]


def _split_of(pair_id: str) -> str | None:
    folders = pair_id.split("/")[:-1]
    return next((_SPLIT_FOLDERS[folder] for folder in folders if folder in _SPLIT_FOLDERS), None)


def _describe(source: Path, pairs: list[Pair]) -> str:
    if not pairs:
        return "nothing"
    shapes = Counter("/".join(p.image.relative_to(source).parts[:-1]) for p in pairs)
    masks = Counter("/".join(p.mask.relative_to(source).parts[:-1]) for p in pairs)
    return f"images in {', '.join(sorted(shapes))}; masks in {', '.join(sorted(masks))}"
