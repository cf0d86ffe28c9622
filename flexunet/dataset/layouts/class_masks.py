"""One black and white mask per class: `masks/crack/a.png`, `masks/a/crack.png` or `masks/a_crack.png`."""

import os.path
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexunet.core.config.whole import Config
from flexunet.core.palette import pack_rgb
from flexunet.core.pictures import Refused
from flexunet.core.problems import Problem
from flexunet.dataset.annotation import Annotation, BadAnnotation, Drawn, class_id_of, paint
from flexunet.dataset.layouts.bounded import read_bytes
from flexunet.dataset.layouts.interface import Reader, Reading, Source, SourceClass
from flexunet.dataset.layouts.names import find_affixes, images_by_id, masks_by_id, split_of
from flexunet.dataset.layouts.pairing import background, clean_notes, is_clean
from flexunet.dataset.masks import ALPHA_ALONE, GREY_MODES, open_lossless, require_distinct_colors, transparency
from flexunet.dataset.pairs import Pair

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class ClassMasks(Annotation):
    """Files of one class each.

    Attributes:
      files: the class's name, and the file whose pixels that are not black show it.
      defects: of a source that tells kinds of defects, their names: where the config has one defect class, and it is
        none of these, in whatever case, it is all of them.
    """

    files: tuple[tuple[str, Path], ...]
    defects: tuple[str, ...] = ()

    def read(self) -> bytes:
        contents = [read_bytes(path) for _, path in self.files]
        return b"".join(_LENGTH.pack(len(content)) + content for content in contents)

    def draw(self, content: bytes, size: tuple[int, int], config: Config) -> Drawn:
        parts = list(_parts(content))
        regions = []
        # Names alone are alike where each class has a folder.
        around = os.path.commonpath([path.parent for _, path in self.files])
        for (name, path), part in zip(self.files, parts, strict=True):
            try:
                regions.append((self._class_id(name, config), binary_mask(part, size, config)))
            except BadAnnotation as bad:
                raise bad.within(f"{path.relative_to(around)}: ") from None
        # A file for each class of each image is all black where there is none.
        return paint([region for region in regions if region[1].any()], size, config.records.overlaps)

    def _class_id(self, name: str, config: Config) -> int:
        kinds = {defect.casefold() for defect in self.defects}
        is_any = bool(kinds) and len(config.classes) == 2 and config.classes[1].name.casefold() not in kinds
        return 1 if is_any else class_id_of(name, config.classes)


def binary_mask(encoded: bytes, size: tuple[int, int], config: Config) -> NDArray[np.bool_]:
    """Where a black and white mask is not black, bool `[h, w]`; `size` is width and height.

    Raises:
      BadAnnotation: it is none, or of another size.
    """
    try:
        image = open_lossless(encoded, config.image.max_pixels).image
        require_distinct_colors(image)
    except Refused as refused:
        raise BadAnnotation(*refused.words) from None
    if image.size != size:
        raise BadAnnotation(f"is {image.width}x{image.height}", f"{size[0]}x{size[1]}, as its image", "export it anew")
    alpha = transparency(image)
    values = _values(image)
    drawn = values != 0
    if alpha is not None and ((alpha != 255) & drawn).any():
        raise BadAnnotation("is transparent where it is not black", "an opaque mask", "export it without alpha")
    if alpha is not None and (alpha == 255).any() and not drawn.any():
        raise BadAnnotation(*ALPHA_ALONE)
    shown = values[drawn]
    if shown.size and (shown != shown[0]).any():
        what = "colours" if image.mode not in GREY_MODES else "grey levels"
        some = ", ".join(f"{value:06x}" if what == "colours" else str(value) for value in np.unique(values)[:5])
        repair = "in this layout a mask shows one class: export it without smoothing"
        raise BadAnnotation(f"has the {what} {some}", "black and one other", repair)
    return drawn


def _values(image: Image.Image) -> NDArray[np.generic]:
    """A number for each colour or grey level, `[h, w]`; 0 is black."""
    if image.mode not in GREY_MODES:
        return pack_rgb(np.asarray(image.convert("RGB")))
    return np.asarray(image.getchannel("L") if image.mode == "LA" else image)


def _signs(source: Source) -> str:
    images, masks = images_by_id(source), masks_by_id(source)
    if not masks or not images or find_affixes(images, masks):
        return ""
    owners = _owners(images, masks)
    # One ending for all, with a slip in some, is no ending for each class.
    in_folders = all("/" in mask for mask in masks)
    if len(owners) < len(masks) or not (in_folders or len({image for image, _ in owners.values()}) < len(owners)):
        return ""
    names = sorted({class_name for _, class_name in owners.values()})
    return f"masks of {', '.join(names[:5])}"


def _read(source: Source) -> Reading:
    images, masks = images_by_id(source), masks_by_id(source)
    owners = _owners(images, masks)
    reading = Reading(read={name for by_id in (images, masks) for names in by_id.values() for name in names})
    of_image: dict[str, list[tuple[str, Path]]] = {}
    for mask_id, names in masks.items():
        if mask_id not in owners:
            what = "a mask that belongs to no image"
            reading.problems.append(Problem(source.root / names[0], what, "IMAGE and CLASS in its path", "rename it"))
        else:
            image_id, class_name = owners[mask_id]
            of_image.setdefault(image_id, []).extend((class_name, source.root / name) for name in names)
    for image_id, names in images.items():
        reading.problems += _several(source, image_id, names)
        if image_id in of_image:
            files = tuple(sorted(of_image[image_id]))
            pair = Pair(image_id, source.root / names[0], files[0][1], split_of(image_id), ClassMasks(files))
            reading.pairs.append(pair)
        elif is_clean(source, image_id):
            reading.pairs.append(background(source, image_id, names[0]))
        else:
            what, repair = "image without a mask", "add one, or use --no-mask-is-background if it shows no defect"
            reading.problems.append(Problem(source.root / names[0], what, "a mask of some class", repair))
    reading.notes += clean_notes(source, [i for i in images if i not in of_image], of_image)
    reading.notes.append("where a class has no mask for an image that others have, the image does not show it")
    return reading


def _several(source: Source, image_id: str, names: Sequence[str]) -> list[Problem]:
    if len(names) == 1:
        return []
    return [Problem(source.root / names[0], f"{len(names)} images for {image_id}", "one", "remove the others")]


def _owners(images: Iterable[str], masks: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Image id and class of each mask that has both."""
    known = frozenset(images)
    found = ((mask, next((o for o in _readings(mask) if o[0] in known), None)) for mask in masks)
    return {mask: owner for mask, owner in found if owner is not None}


def _readings(mask_id: str) -> Iterator[tuple[str, str]]:
    """Image id and class that an id of a mask could mean: a folder's name is taken out, or a stem is cut."""
    folder, _, stem = mask_id.rpartition("/")
    parts = mask_id.split("/")
    for index in range(len(parts) - 1):
        yield "/".join([*parts[:index], *parts[index + 1 :]]), parts[index]
    if folder:
        yield folder, stem
    for cut in range(len(stem) - 1, 0, -1):
        if stem[cut] in "_-. ":
            yield (f"{folder}/{stem[:cut]}" if folder else stem[:cut]), stem[cut + 1 :]


def _classes(source: Source) -> list[SourceClass]:
    owners = _owners(images_by_id(source), masks_by_id(source))
    return [SourceClass(name) for name in sorted({class_name for _, class_name in owners.values()})]


def _parts(content: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(content):
        (length,) = _LENGTH.unpack_from(content, start)
        start += _LENGTH.size
        yield content[start : start + length]
        start += length


READER = Reader(
    "class-masks", "one black and white mask per class: masks/CLASS/a.png or masks/a_CLASS.png", _signs, _read, _classes
)
