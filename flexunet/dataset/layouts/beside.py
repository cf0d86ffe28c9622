"""Image and mask side by side in one folder: `a.png` with `a_mask.png`, `10000_GT.png`, or `a.jpg` with `a.png`; or an
ending for each: `a_sat.jpg` and `a_mask.png`, `a/image.png` and `a/mask.png`.
"""

import re
from collections import Counter
from collections.abc import Mapping

from flexunet.core.finder import suffix_of
from flexunet.core.readable import IMAGE_SUFFIXES, JPEG_SUFFIXES
from flexunet.dataset.layouts.interface import Reader, Reading, Source
from flexunet.dataset.layouts.names import MASK_FOLDERS, place
from flexunet.dataset.layouts.pairing import mask_file, pair_up

_LAST_WORD = re.compile(r"(?<=.)[ _./-]+([A-Za-z]+)$")
_ENDING = re.compile(r"(?<=.)[ _.-]+[A-Za-z][A-Za-z0-9]*")

# Names of images and of masks, each by id.
_Split = tuple[dict[str, list[str]], dict[str, list[str]]]


def _signs(source: Source) -> str:
    found = _split(source)
    if found is None:
        return ""
    images, masks = found
    pair_id = next(iter(masks))
    return f"{masks[pair_id][0]} beside {images[pair_id][0]}"


def _read(source: Source) -> Reading:
    images, masks = _split(source) or (_by_id(source), {})
    reading = pair_up(source, images, masks, mask_file(source))
    endings = {name.rpartition("/")[2] for names in masks.values() for name in names[:1]}
    if endings:
        reading.notes.append(f"masks lie beside their images, such as {min(endings)}")
    return reading


def _split(source: Source) -> _Split | None:
    """Which files are masks; None if nothing says so for all of them."""
    by_id = _by_id(source)
    if any(place(name).role == "mask" for names in by_id.values() for name in names):
        return None
    return _by_format(by_id) or _by_ending(by_id) or _by_two_endings(by_id)


def _by_format(by_id: Mapping[str, list[str]]) -> _Split | None:
    """JPEG images and lossless masks of the same name."""
    lossy = {i: [n for n in names if suffix_of(n) in JPEG_SUFFIXES] for i, names in by_id.items()}
    masks = {i: [n for n in names if suffix_of(n) not in JPEG_SUFFIXES] for i, names in by_id.items()}
    images, masks = ({i: names for i, names in found.items() if names} for found in (lossy, masks))
    return (images, masks) if masks and masks.keys() <= images.keys() else None


def _by_ending(by_id: Mapping[str, list[str]]) -> _Split | None:
    """One ending that makes a mask's name of an image's, for every mask; without a word for masks, for every image."""
    endings = Counter(
        file_id[found.start() :]
        for file_id in by_id
        for found in _ENDING.finditer(file_id)
        if "/" not in file_id[found.start() :] and file_id[: found.start()] in by_id
    )
    for ending, count in endings.most_common():
        masks = {i[: -len(ending)]: names for i, names in by_id.items() if i.endswith(ending)}
        images = {i: names for i, names in by_id.items() if not i.endswith(ending)}
        says_mask = any(word.casefold() in MASK_FOLDERS for word in re.findall(r"[A-Za-z]+", ending))
        if masks.keys() <= images.keys() and count == len(masks) and (says_mask or len(masks) == len(images)):
            return images, masks
    return None


def _by_two_endings(by_id: Mapping[str, list[str]]) -> _Split | None:
    """Two last words, of which one is a word for masks, and each mask has an image of the same name before it."""
    found = [(_LAST_WORD.search(file_id), names) for file_id, names in by_id.items()]
    by_word: dict[str, dict[str, list[str]]] = {}
    for word, names in found:
        if word is None:
            return None
        by_word.setdefault(word[1].casefold(), {}).setdefault(word.string[: word.start()], []).extend(names)
    masks = [word for word in by_word if word in MASK_FOLDERS]
    if len(by_word) != 2 or len(masks) != 1:
        return None
    of_masks, of_images = by_word.pop(masks[0]), next(iter(by_word.values()))
    return (of_images, of_masks) if of_masks.keys() <= of_images.keys() else None


def _by_id(source: Source) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in source.files.with_suffix(IMAGE_SUFFIXES):
        found.setdefault(place(name).id, []).append(name)
    return found


READER = Reader("beside", "image and mask in one folder, as a.png and a_mask.png, or a.jpg and a.png", _signs, _read)
