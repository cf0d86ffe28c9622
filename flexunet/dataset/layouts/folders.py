"""Images in one folder and masks in another: `images/` and `masks/`, `train/` and `train_masks/`, `img_dir/train/`."""

import os.path
import re
from collections import Counter
from collections.abc import Collection

from flexunet.core.problems import Problem
from flexunet.dataset.layouts.interface import Reader, Reading, Source
from flexunet.dataset.layouts.names import (
    Affix,
    find_affixes,
    images_by_id,
    masks_by_id,
    place,
    regrouped,
    without_frames,
    without_roles,
)
from flexunet.dataset.layouts.pairing import mask_file, pair_up

_LAST_WORD = re.compile(r"[ _.-]+[A-Za-z][A-Za-z0-9]*$")


def _signs(source: Source) -> str:
    images, masks = _by_id(source, explained=True)
    if not masks or not find_affixes(images, masks):
        return ""
    return f"masks such as {next(iter(masks.values()))[0]}"


def _read(source: Source) -> Reading:
    images, masks = _by_id(source)
    affixes = find_affixes(images, masks)
    around = _around(masks) if masks and not images else ""
    if around:
        return Reading(problems=[_only_masks(source, masks, around)], read=_names(masks))
    if affixes is None and masks and images:
        return Reading(problems=[_unlike(source, images, masks)], read=_names(images) | _names(masks))
    of_image, of_mask = affixes or (Affix(), Affix())
    reading = pair_up(source, regrouped(images, of_image), regrouped(masks, of_mask), mask_file(source))
    if of_mask != Affix():
        reading.notes.append(f"names of masks have {of_mask.words()}, which names of images do not have")
    if of_image != Affix():
        reading.notes.append(f"names of images have {of_image.words()}, which names of masks do not have")
    return reading


def _by_id(source: Source, explained: bool = False) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Names of images and masks; where their paths do not fit, without folders that only tell a role once more, or
    that may tell one.

    Args:
      source: the source.
      explained: whether that must give every mask an image of its own: a class may be called as such a folder.
    """
    plain = images_by_id(source), masks_by_id(source)
    if find_affixes(*plain) is not None:
        return plain
    for of_images, of_masks in ((without_roles, without_roles), (without_frames, dict)):
        images, masks = of_images(plain[0]), of_masks(plain[1])
        affixes = find_affixes(images, masks)
        if affixes is not None and (not explained or _each_has_one(images, regrouped(masks, affixes[1]), affixes[0])):
            return images, masks
    return plain


def _each_has_one(images: dict[str, list[str]], masks: dict[str, list[str]], of_image: Affix) -> bool:
    return masks.keys() <= regrouped(images, of_image).keys() and all(len(names) == 1 for names in masks.values())


def _around(masks: dict[str, list[str]]) -> str:
    """A folder such as `lab`, called as if it were for masks, below which folders for images lie too; or nothing."""
    shared = os.path.commonpath(_names(masks))
    return shared if any(place(name.removeprefix(f"{shared}/")).role == "image" for name in _names(masks)) else ""


def _only_masks(source: Source, masks: dict[str, list[str]], around: str) -> Problem:
    names = sorted(_names(masks))
    what = f"{len(names)} images in folders for masks, such as {names[0]}, and none in others"
    return Problem(source.root, what, "images/ beside masks/", f"give {source.root / around} as SOURCE, or rename it")


def _unlike(source: Source, images: dict[str, list[str]], masks: dict[str, list[str]]) -> Problem:
    what = f"{len(masks)} masks and {len(images)} images, none with the same path and stem"
    kinds = _kinds(masks)
    best, explained = _best_suffix(images, masks)
    if kinds:
        what += f"; the masks are of {len(kinds)} kinds, {', '.join(kinds)}: move all but one elsewhere"
    elif explained:
        odd = next(mask for mask in masks if Affix(suffix=best).strip(mask) not in images)
        what += f"; the suffix {best} explains {explained} masks, but not {masks[odd][0]}"
    expected = "names that are equal, or differ by one prefix or suffix"
    return Problem(source.root, what, expected, f"rename them; seen: {_first(images)} and {_first(masks)}")


def _kinds(masks: Collection[str]) -> list[str]:
    """The last words of masks' names, where each image has a mask with each: `_color`, `_labelIds`."""
    found = Counter(word[0] for mask in masks if (word := _LAST_WORD.search(mask)))
    return sorted(found) if len(found) > 1 and {*found.values()} == {len(masks) / len(found)} else []


def _best_suffix(images: Collection[str], masks: Collection[str]) -> tuple[str, int]:
    """The commonest text behind an image's id in a mask's."""
    suffixes = Counter(
        mask[len(image) :] for mask in masks for image in (_longest_start(mask, images),) if image is not None
    )
    return suffixes.most_common(1)[0] if suffixes else ("", 0)


def _longest_start(mask: str, images: Collection[str]) -> str | None:
    return next((mask[:end] for end in range(len(mask) - 1, 0, -1) if mask[:end] in images), None)


def _first(by_id: dict[str, list[str]]) -> str:
    return next(iter(by_id.values()))[0]


def _names(by_id: dict[str, list[str]]) -> set[str]:
    return {name for names in by_id.values() for name in names}


READER = Reader("folders", "images/ beside masks/ or annotations/, by equal names", _signs, _read)
