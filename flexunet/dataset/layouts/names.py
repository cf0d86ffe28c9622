"""What names of folders and files tell: which are images and which are masks, which belong together, and the splits."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from flexunet.core.features import SPLIT_EVAL, SPLIT_TEST, SPLIT_TRAIN
from flexunet.core.finder import nfc, stem_and_suffix
from flexunet.core.readable import IMAGE_SUFFIXES
from flexunet.dataset.layouts.interface import Source

# As public data sets have them; compared without regard to case.
IMAGE_FOLDERS: Final = frozenset(
    {
        *(
            "images",
            "image",
            "imgs",
            "img",
            "img_dir",
            "jpegimages",
            "leftimg8bit",
            "inputs",
            "input",
            "photos",
            "photo",
        ),
        *("source_images", "original_images"),
    }
)
MASK_FOLDERS: Final = frozenset(
    {
        *("masks", "mask", "annotations", "annotation", "annots", "annot", "ann", "ann_dir", "labels", "label", "lab"),
        *("gt", "groundtruth", "ground_truth", "gtfine", "segmentationclass", "segmentations", "segmentation", "seg"),
        # Supervisely's; that of labelme2voc, whose SegmentationClass/ holds arrays.
        *("targets", "target", "msks", "msk", "masks_machine", "segmentationclasspng"),
    }
)
# Images in them need no mask.
GOOD_FOLDERS: Final = frozenset({"good", "ok", "normal", "defect_free", "defect-free", "no_defect"})

_SPLITS: Final = {
    "training": SPLIT_TRAIN,
    "train": SPLIT_TRAIN,
    "validation": SPLIT_EVAL,
    "valid": SPLIT_EVAL,
    "val": SPLIT_EVAL,
    "eval": SPLIT_EVAL,
    "testing": SPLIT_TEST,
    "test": SPLIT_TEST,
}
SPLIT_NAMES: Final = tuple(_SPLITS)
_SPLIT: Final = "|".join(_SPLITS)
# `train_masks`, `masks-train`, `trainannot`.
_ROLE: Final = "|".join(sorted(IMAGE_FOLDERS | MASK_FOLDERS, key=len, reverse=True))
_COMPOUND: Final = re.compile(
    rf"(?P<before>{_SPLIT})[ _-]?(?P<first>{_ROLE})|(?P<last>{_ROLE})[ _-]?(?P<after>{_SPLIT})"
)
# Images' folders too, unless they are a class or what the images show: only where paths do not fit with them.
_FRAMES: Final = re.compile(rf"(?:({_SPLIT})[ _-]?)?(?:frames?|raw|rgb)(?:[ _-]?({_SPLIT}))?")


class Place(NamedTuple):
    """A file's role ("image", "mask" or empty) by its folders, and its path without them and without suffix, in NFC."""

    role: str
    id: str


@dataclass(frozen=True)
class Affix:
    """What stands around the part of a stem that images and masks share; both are empty in most sources."""

    prefix: str = ""
    suffix: str = ""

    def strip(self, file_id: str) -> str | None:
        """The id without it; None if it has another, or nothing else."""
        folder, _, stem = file_id.rpartition("/")
        core = len(stem) - len(self.prefix) - len(self.suffix)
        if core < 1 or not stem.startswith(self.prefix) or not stem.endswith(self.suffix):
            return None
        kept = stem[len(self.prefix) : len(self.prefix) + core]
        return f"{folder}/{kept}" if folder else kept

    def words(self) -> str:
        """Words for messages."""
        found = [f"the prefix {self.prefix}"] if self.prefix else []
        found += [f"the suffix {self.suffix}"] if self.suffix else []
        return " and ".join(found) or "the same name"


def place(name: str) -> Place:
    """Takes a path apart; a mask's folder tells more than an image's, the innermost more than those around it.

    Folders of splits have small letters in the id: images may lie in `train` and their masks in `Train`.
    """
    path, _ = stem_and_suffix(printable(name))
    *names, stem = path.split("/")
    folders = [_folder(name) for name in names]
    parts = [*(folder.name for folder in folders), stem]
    for wanted in ("mask", "image"):
        for index in reversed(range(len(folders))):
            if folders[index].role == wanted:
                return Place(wanted, "/".join([*parts[:index], *folders[index].kept, *parts[index + 1 :]]))
    return Place("", "/".join(parts))


def printable(name: str) -> str:
    """A name in NFC; bytes that are no UTF-8 become escapes."""
    return nfc(name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))


def split_of(file_id: str) -> str | None:
    """The split that a folder of an id names, if one does: `Valid`, `train2017`."""
    return next((split for folder in file_id.split("/")[:-1] if (split := split_named(folder))), None)


def split_named(word: str) -> str | None:
    """The split of ours that a word stands for; case and a year behind it do not matter."""
    found = re.fullmatch(rf"({_SPLIT})[_-]?\d*", word.casefold())
    return _SPLITS[found[1]] if found else None


def images_by_id(source: Source) -> dict[str, list[str]]:
    """Names of the images: those in folders for images, or, where there are none, those in no folder for masks."""
    places = [(place(name), name) for name in source.files.with_suffix(IMAGE_SUFFIXES)]
    roles = {"image"} if any(found.role == "image" for found, _ in places) else {""}
    return _by_id((found.id, name) for found, name in places if found.role in roles)


def others_by_id(source: Source, suffixes: Iterable[str]) -> dict[str, list[str]]:
    """Names of files with a suffix, by id, wherever they lie."""
    return _by_id((place(name).id, name) for name in source.files.with_suffix(suffixes))


def masks_by_id(source: Source) -> dict[str, list[str]]:
    """Names of the image files in folders for masks."""
    places = [(place(name), name) for name in source.files.with_suffix(IMAGE_SUFFIXES)]
    return _by_id((found.id, name) for found, name in places if found.role == "mask")


def find_affixes(images: Iterable[str], masks: Iterable[str]) -> tuple[Affix, Affix] | None:
    """What to strip off images' and masks' ids so that every mask has an image: the shortest that explains all.

    Names that match as they are need nothing, even if only some do: the others are mistakes.
    """
    images, masks = frozenset(images), sorted(masks)
    if not masks or not images:
        return None
    if not images.isdisjoint(masks):
        return Affix(), Affix()
    found = [
        (of_image, of_mask)
        for of_image in _candidates(sorted(images))
        for of_mask in _candidates(masks)
        if _explains(images, masks, of_image, of_mask)
    ]
    return min(found, key=lambda pair: sum(len(a.prefix + a.suffix) for a in pair), default=None)


def regrouped(by_id: Mapping[str, Sequence[str]], affix: Affix) -> dict[str, list[str]]:
    """The same names by what `affix` leaves of their ids."""
    return _by_id((affix.strip(file_id) or file_id, name) for file_id, names in by_id.items() for name in names)


def without_roles(by_id: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The same names by ids without any folder for images or masks: `images/img/a.png` and `masks/img/a.png`."""
    return _by_id((_bare(file_id), name) for file_id, names in by_id.items() for name in names)


def without_frames(by_id: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The same names by ids without folders such as `frames` and `rgb`; `train_frames` is `train`."""
    return _by_id((_unframed(file_id), name) for file_id, names in by_id.items() for name in names)


def _unframed(file_id: str) -> str:
    *folders, stem = file_id.split("/")
    found = [(folder, _FRAMES.fullmatch(folder.casefold())) for folder in folders]
    kept = [part for folder, frames in found for part in (filter(None, frames.groups()) if frames else (folder,))]
    return "/".join([*kept, stem])


def _bare(file_id: str) -> str:
    *folders, stem = file_id.split("/")
    found = [_folder(folder) for folder in folders]
    return "/".join([*(part for f in found for part in (f.kept if f.role else (f.name,))), stem])


class _Folder(NamedTuple):
    """A folder's role, its name in an id, and what stands there in its place if it gives the role: `train`."""

    role: str
    name: str
    kept: tuple[str, ...] = ()


@lru_cache(maxsize=1024)
def _folder(folder: str) -> _Folder:
    name = folder.casefold().replace(" ", "_")
    if name in MASK_FOLDERS or name in IMAGE_FOLDERS:
        return _Folder("mask" if name in MASK_FOLDERS else "image", folder)
    found = _COMPOUND.fullmatch(name)
    if not found:
        return _Folder("", name if split_named(folder) else folder)
    role = found["first"] or found["last"]
    return _Folder("mask" if role in MASK_FOLDERS else "image", folder, (found["before"] or found["after"],))


def _by_id(files: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for file_id, name in files:
        found.setdefault(file_id, []).append(name)
    return found


def _candidates(ids: Sequence[str]) -> list[Affix]:
    """Words at the ends of the first stem that all stems share: `mask_`, `_leftImg8bit`, `_gtFine_labelIds`."""
    stem = ids[0].rpartition("/")[2]
    prefixes = ["", *(stem[: found.end()] for found in re.finditer(r"[A-Za-z]+[ _.-]*", stem) if _leads(stem, found))]
    suffixes = ["", *(stem[found.start() :] for found in re.finditer(r"[ _.-]+[A-Za-z][A-Za-z0-9]*|[A-Za-z]+$", stem))]
    affixes = [Affix(prefix, suffix) for prefix in prefixes for suffix in suffixes]
    return [affix for affix in affixes if all(affix.strip(file_id) is not None for file_id in ids)]


def _leads(stem: str, word: re.Match[str]) -> bool:
    """Whether only letters and separators stand before a word."""
    return not any(character.isdigit() for character in stem[: word.start()])


def _explains(images: Iterable[str], masks: Iterable[str], of_image: Affix, of_mask: Affix) -> bool:
    cores = [of_image.strip(image) for image in images]
    shared = frozenset(cores)
    return len(shared) == len(cores) and all(of_mask.strip(mask) in shared for mask in masks)
