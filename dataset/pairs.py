"""Finds images and masks in a user's folders and pairs them by path, never by the order of a listing."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from dataset.problems import Problem
from pipeline.features import SPLIT_EVAL, SPLIT_TEST, SPLIT_TRAIN
from pipeline.finder import IMAGE_SUFFIXES, Files, LeftOut, find_files, nfc

# Compared without regard to case, as are the names of splits.
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
    """An image and its mask; `id` is their common path below the source, without role folder and suffix, in NFC."""

    id: str
    image: Path
    mask: Path
    split: str | None


@dataclass(frozen=True)
class Layout:
    """What lies in the source.

    Attributes:
      description: in words.
      pairs: sorted by id.
      problems: files that cannot be used.
      files_read: how many files below the source belong to it.
      left_out: the files that do not, counted by reason.
      notes: what else the user should know, a sentence each.
    """

    description: str
    pairs: list[Pair]
    problems: list[Problem]
    files_read: int = 0
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def has_splits(self) -> bool:
        return any(pair.split is not None for pair in self.pairs)


def find_pairs(source: Path, output: Path | None = None) -> Layout:
    """Looks below `source` for `images/` beside `masks/` or `annotations/`, with split folders above or below them.

    `output` is where the records will lie; it may be below `source` and is left out.

    Raises:
      UserError: a folder cannot be listed.
    """
    if not source.is_dir():
        what = "not a folder" if source.exists() else "no such folder"
        return Layout("nothing", [], [Problem(source, what, "a folder of images and masks", "check SOURCE")])
    files = find_files(source, output)
    images, masks = _by_id(files, IMAGE_FOLDERS), _by_id(files, MASK_FOLDERS)
    problems = [*_duplicates(images, "image"), *_duplicates(masks, "mask")]
    problems += _orphans(images, masks, "image", "a mask") + _orphans(masks, images, "mask", "an image")
    pairs = [
        Pair(pair_id, images[pair_id][0], masks[pair_id][0], split_of(pair_id))
        for pair_id in sorted(images.keys() & masks.keys())
        if len(images[pair_id]) == len(masks[pair_id]) == 1
    ]
    if not images and not masks:
        expected = "images/ beside masks/ or annotations/, as in SOURCE/images/a.png and SOURCE/masks/a.png"
        problems.append(Problem(source, "no images found", expected, "move or rename the folders"))
    read = {
        path.relative_to(source).as_posix() for found in (images, masks) for paths in found.values() for path in paths
    }
    return Layout(_describe(source, pairs), pairs, problems, len(read), files.account(read), _notes_on_splits(pairs))


def split_of(pair_id: str) -> str | None:
    """The split that a folder of the id names; case does not matter."""
    folders = [folder.casefold() for folder in pair_id.split("/")[:-1]]
    return next((_SPLIT_FOLDERS[folder] for folder in folders if folder in _SPLIT_FOLDERS), None)


def _by_id(files: Files, role_folders: frozenset[str]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for name in files.with_suffix(IMAGE_SUFFIXES):
        path = PurePosixPath(nfc(name))
        kept = list(path.parts[:-1])
        role = next((part for part in kept if part.casefold() in role_folders), None)
        if role is not None:
            kept.remove(role)
            found.setdefault("/".join([*kept, path.stem]), []).append(files.root / name)
    return found


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


def _notes_on_splits(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Several folders of images, none of which names a split, may be splits under names that nobody here knows."""
    tops = sorted({pair.id.partition("/")[0] for pair in pairs if "/" in pair.id})
    if len(tops) < 2 or any(pair.split for pair in pairs):
        return ()
    some = ", ".join(tops[:5]) + (", ..." if len(tops) > 5 else "")
    known = ", ".join(sorted(_SPLIT_FOLDERS))
    return (f"{len(tops)} folders ({some}), none of which names a split ({known}): images are assigned to splits anew",)


def _describe(source: Path, pairs: list[Pair]) -> str:
    if not pairs:
        return "nothing"
    shapes = Counter("/".join(p.image.relative_to(source).parts[:-1]) for p in pairs)
    masks = Counter("/".join(p.mask.relative_to(source).parts[:-1]) for p in pairs)
    return f"images in {', '.join(sorted(shapes))}; masks in {', '.join(sorted(masks))}"
