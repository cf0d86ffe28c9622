"""Reads one pair, checks it, and makes of it what goes into a record."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexunet.core import palette
from flexunet.core.config.whole import Config
from flexunet.core.errors import UserError
from flexunet.core.fit import keeps_every_pixel
from flexunet.core.grey import grey_of
from flexunet.core.pictures import Picture, Refused, open_image, png, served_bytes
from flexunet.core.problems import Problem
from flexunet.core.readable import FIRST_LYING
from flexunet.dataset.annotation import Background, BadAnnotation
from flexunet.dataset.doubts import are_boxes, is_painted
from flexunet.dataset.losses import Losses, losses_of
from flexunet.dataset.masks import Mask, count_pixels, read_mask, rims
from flexunet.dataset.pairs import Pair
from flexunet.dataset.thumbnails import pixel_digest, thumbnail

# Of a flat image's pixels no more than one in a thousand lies outside its two commonest grey levels.
_FLAT_SHARE: Final = 0.999


@dataclass(frozen=True)
class Content:
    """What a record holds: an image that the graph reads, and an RGB mask as PNG."""

    image: bytes
    mask: bytes


@dataclass(frozen=True)
class Facts:
    """What is kept of a pair after it was checked; a few kilobytes.

    Attributes:
      pair: the files.
      height: of the upright image, in pixels.
      width: likewise.
      pixels: labelled pixels of each class, int64 `[C]`.
      brightness: mean grey level, 0 to 255.
      contrast: standard deviation of the grey levels.
      sharpness: mean difference of neighbouring grey levels, by the contrast; low where a camera is out of focus.
      thumbnail: float16 [50, 50], as `flexunet.dataset.thumbnails.thumbnail` makes it.
      pixel_digest: of the decoded image.
      mask_digest: of the class ids.
      digest: of both files.
      image_kind: the row of the table of what can be read, by its name.
      image_format: of the image in the record, such as png.
      keeps_image: whether the record holds the bytes of the image's file as they are.
      keeps_mask: likewise of the mask's.
      turned: whether EXIF turned the image.
      turned_alone: whether it turned image and mask otherwise, and the sizes would fit both ways.
      unlisted: whether pixels have an index that the image's palette does not have, and are black.
      mask_is_ids: whether the mask's numbers are ids of classes and no colours.
      is_flat: whether nearly all pixels have one or two grey levels.
      boxes: whether all defects are rectangles: upright ones in a mask, or drawn as such in an annotation.
      painted: whether the image shows a defect in one flat colour, or in one tint.
      levels: grey levels below which 1 % and 99 % of the pixels lie.
      rims: pixels of each class in rims one pixel wide between two others, int64 `[C]`.
      overlaps: pixels on which annotated instances of two classes lie.
      empty: annotated instances that cover no pixel.
      losses: what is left at the model's size; None where the image is not shrunk, and nothing is lost.
      snapped: pixels of each class that were taken as it by the nearest colour, int64 `[C]`; None where none was.
      metadata: columns of `--metadata`.
    """

    pair: Pair
    height: int
    width: int
    pixels: NDArray[np.int64]
    brightness: float
    contrast: float
    sharpness: float
    thumbnail: NDArray[np.float16]
    pixel_digest: str
    mask_digest: str
    digest: str
    image_kind: str
    image_format: str
    keeps_image: bool
    keeps_mask: bool
    turned: bool
    turned_alone: bool
    unlisted: bool
    mask_is_ids: bool
    is_flat: bool
    boxes: bool
    painted: bool
    levels: tuple[int, int]
    rims: NDArray[np.int64]
    losses: Losses | None = None
    overlaps: int = 0
    empty: int = 0
    snapped: NDArray[np.int64] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def defects(self) -> tuple[int, ...]:
        """Ids of the defect classes present."""
        return tuple(int(i) for i in np.flatnonzero(self.pixels[1:]) + 1)


class BadPair(UserError):
    """A pair that cannot be used."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(str(problem))


def examine(pair: Pair, config: Config) -> Facts:
    """Decodes and checks both files.

    Raises:
      BadPair: says what is wrong.
    """
    image_file, mask_file = _read(pair.image), _read_mask(pair)
    picture = _image(pair, image_file, config)
    mask = _mask(pair, mask_file, picture.image.size, config)
    _require_same_size(pair, picture, mask.class_ids)
    return _facts(pair, _digest(image_file, mask_file), picture, mask, config)


def _facts(pair: Pair, digest: str, picture: Picture, mask: Mask, config: Config) -> Facts:
    image, class_ids = picture.image, mask.class_ids
    brightness, contrast, sharpness, histogram = grey_of(image)
    return Facts(
        pair=pair,
        height=image.height,
        width=image.width,
        pixels=count_pixels(class_ids, len(config.classes)),
        brightness=brightness,
        contrast=contrast,
        sharpness=sharpness,
        thumbnail=thumbnail(image).astype(np.float16),
        pixel_digest=pixel_digest(image),
        mask_digest=hashlib.sha256(class_ids.tobytes()).hexdigest(),
        digest=digest,
        image_kind=picture.kind.name,
        image_format=picture.kind.suffix,
        keeps_image=picture.kind.is_read,
        keeps_mask=mask.is_served,
        turned=picture.orientation > 1,
        turned_alone=mask.orientation != picture.orientation and _fits_both_ways(pair, picture, mask),
        unlisted=picture.unlisted is not None,
        mask_is_ids=mask.is_ids,
        is_flat=bool(np.sort(histogram)[-2:].sum() >= _FLAT_SHARE * histogram.sum()),
        boxes=mask.boxes or are_boxes(class_ids),
        painted=is_painted(image, class_ids),
        levels=_levels(histogram),
        rims=rims(class_ids, len(config.classes)),
        losses=_losses(class_ids, config),
        overlaps=mask.overlaps,
        empty=mask.empty,
        snapped=mask.snapped,
    )


def with_losses(facts: Facts, config: Config) -> Facts:
    """The same, with regions counted also where none can be lost.

    Raises:
      BadPair: the mask is no longer what was examined.
    """
    if facts.losses is not None:
        return facts
    class_ids = read_class_ids(facts.pair, (facts.width, facts.height), config)
    return replace(facts, losses=losses_of(class_ids, config.image, len(config.classes)))


def examine_each(pairs: Sequence[Pair], config: Config) -> list[Facts | Problem]:
    """`examine`, with the problems as results."""
    return [_examine_or_problem(pair, config) for pair in pairs]


def _examine_or_problem(pair: Pair, config: Config) -> Facts | Problem:
    try:
        return examine(pair, config)
    except BadPair as bad:
        return bad.problem


def read_content(facts: Facts, config: Config) -> Content:
    """What goes into the record; files that serve as they are stay so, which costs no decoding.

    Raises:
      BadPair: a file is no longer what was examined.
    """
    pair = facts.pair
    image, mask = _read(pair.image), _read_mask(pair)
    if _digest(image, mask) != facts.digest:
        what = f"it, or {pair.mask.name}, changed during the ingest"
        raise BadPair(Problem(pair.image, what, "files that stay as they are", "ingest again"))
    if not facts.keeps_mask:
        class_ids = _mask(pair, mask, (facts.width, facts.height), config).class_ids
        mask_rgb = palette.rgb_from_class_ids(class_ids, config.classes, config.records.ignore_color)
        mask = png(Image.fromarray(mask_rgb))
    if not facts.keeps_image:
        image = served_bytes(image, _image(pair, image, config))
    return Content(image, mask)


def read_class_ids(pair: Pair, image_size: tuple[int, int], config: Config) -> NDArray[np.uint8]:
    """Class ids uint8 `[h, w]` of the mask, upright; `image_size` is width and height of the upright image.

    Raises:
      BadPair: says what is wrong.
    """
    return _mask(pair, _read_mask(pair), image_size, config).class_ids


def _read_mask(pair: Pair) -> bytes:
    if pair.annotation is None:
        return _read(pair.mask)
    try:
        return pair.annotation.read()
    except BadAnnotation as bad:
        raise BadPair(Problem(pair.mask, *bad.words)) from None


def read_small(pair: Pair, config: Config, size: tuple[int, int]) -> Image.Image:
    """The upright image in 8-bit RGB, brought to `size`, width and height in pixels.

    Raises:
      BadPair: says what is wrong.
    """
    return _image(pair, _read(pair.image), config).image.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def _image(pair: Pair, encoded: bytes, config: Config) -> Picture:
    try:
        return open_image(encoded, config.image)
    except Refused as refused:
        raise BadPair(Problem(pair.image, *refused.words)) from None


def _mask(pair: Pair, content: bytes, image_size: tuple[int, int], config: Config) -> Mask:
    try:
        if pair.annotation is None:
            return read_mask(content, config)
        drawn = pair.annotation.draw(content, image_size, config)
        return Mask(
            drawn.class_ids,
            orientation=1,
            is_served=False,
            overlaps=drawn.overlaps,
            empty=drawn.empty,
            boxes=drawn.boxes,
        )
    except Refused as refused:
        raise BadPair(Problem(pair.mask, *refused.words)) from None
    except BadAnnotation as bad:
        raise BadPair(Problem(pair.mask, *bad.words)) from None


def _require_same_size(pair: Pair, picture: Picture, class_ids: NDArray[np.uint8]) -> None:
    width, height = picture.image.size
    mask_height, mask_width = class_ids.shape
    if (mask_width, mask_height) == (width, height):
        return
    what = f"is {mask_width}x{mask_height}, its image {pair.image.name} is {width}x{height}"
    repair = "export the mask at the image's size"
    if picture.orientation >= FIRST_LYING and (mask_width, mask_height) == (height, width):
        what += f" when EXIF has turned it (orientation {picture.orientation})"
        repair = "draw the mask on the upright image, or turn the image's pixels and remove its orientation"
    raise BadPair(Problem(pair.mask, what, "the same size", repair))


def _fits_both_ways(pair: Pair, picture: Picture, mask: Mask) -> bool:
    """Whether the sizes do not tell which way round a mask was drawn."""
    if isinstance(pair.annotation, Background):
        return False
    told = pair.annotation is None or pair.annotation.tells_size
    alike = (picture.orientation >= FIRST_LYING) == (mask.orientation >= FIRST_LYING)
    return not told or alike or picture.image.width == picture.image.height


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadPair(Problem(path, f"cannot be read ({error.strerror})", "a whole image file", "replace it")) from None


def _digest(image_file: bytes, mask_file: bytes) -> str:
    digest = hashlib.sha256(image_file)
    digest.update(b"\0")
    digest.update(mask_file)
    return digest.hexdigest()


def _losses(class_ids: NDArray[np.uint8], config: Config) -> Losses | None:
    height, width = class_ids.shape
    if keeps_every_pixel(height, width, config.image):
        return None
    return losses_of(class_ids, config.image, len(config.classes))


def _levels(histogram: NDArray[np.int64]) -> tuple[int, int]:
    below = np.cumsum(histogram) / histogram.sum()
    return int(np.searchsorted(below, 0.01)), int(np.searchsorted(below, 0.99))
