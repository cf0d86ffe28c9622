"""Reads one pair, checks it, and makes of it what goes into a record."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from flexunet.core import palette
from flexunet.core.config.whole import Config
from flexunet.core.errors import UserError
from flexunet.core.features import IGNORE_ID
from flexunet.dataset.annotation import BadAnnotation
from flexunet.dataset.groups import pixel_digest, thumbnail
from flexunet.dataset.pairs import Pair
from flexunet.dataset.problems import Problem

# What tf.io.decode_image reads as it is; everything else is written anew as PNG.
# BMP is not among them: TensorFlow refuses 16-bit and OS/2 headers.
_KEPT_FORMATS: Final = {"PNG": "png", "JPEG": "jpeg"}
_KEPT_MODES: Final = frozenset({"L", "RGB"})
_FORMATS: Final = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
# Pillow calls a JPEG that holds several pictures, as phones write them, MPO.
_LOSSY_FORMATS: Final = frozenset({"JPEG", "MPO"})
_PNG_END: Final = b"IEND\xaeB`\x82"
_EXIF_ORIENTATION: Final = 0x0112
_ID_MODES: Final = frozenset({"L", "LA", "I;16", "I;16B", "I", "1"})


@dataclass(frozen=True)
class Content:
    """What a record holds: bytes that `tf.io.decode_image` reads, and an RGB mask as PNG."""

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
      thumbnail: float16 [50, 50], as `flexunet.dataset.groups.thumbnail` makes it.
      pixel_digest: of the decoded image.
      mask_digest: of the class ids.
      digest: of both files.
      image_format: of the image in the record, png or jpeg.
      keeps_image: whether the record holds the bytes of the image's file as they are.
      keeps_mask: likewise of the mask's.
      overlaps: pixels on which annotated instances of two classes lie.
      metadata: columns of `--metadata`.
    """

    pair: Pair
    height: int
    width: int
    pixels: NDArray[np.int64]
    brightness: float
    thumbnail: NDArray[np.float16]
    pixel_digest: str
    mask_digest: str
    digest: str
    image_format: str
    keeps_image: bool
    keeps_mask: bool
    overlaps: int = 0
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
    image = _open(pair.image, image_file, config)
    mask = _understood(pair, mask_file, image.size, config)
    class_ids = mask.class_ids
    keeps_image = _is_kept(image, image_file) and image.mode in _KEPT_MODES
    return Facts(
        pair=pair,
        height=image.height,
        width=image.width,
        pixels=_count(class_ids, config),
        brightness=_brightness(image),
        thumbnail=thumbnail(image).astype(np.float16),
        pixel_digest=pixel_digest(image),
        mask_digest=hashlib.sha256(class_ids.tobytes()).hexdigest(),
        digest=_digest(image_file, mask_file),
        image_format=_KEPT_FORMATS[image.format or ""] if keeps_image else "png",
        keeps_image=keeps_image,
        keeps_mask=mask.is_kept,
        overlaps=mask.overlaps,
    )


def examine_or_problem(pair: Pair, config: Config) -> Facts | Problem:
    """`examine`, with the problem as a result: for other processes."""
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
        class_ids = _understood(pair, mask, (facts.width, facts.height), config).class_ids
        mask_rgb = palette.rgb_from_class_ids(class_ids, config.classes, config.records.ignore_color)
        mask = _png(Image.fromarray(mask_rgb))
    if not facts.keeps_image:
        image = _png(palette.as_rgb(_open(pair.image, image, config)))
    return Content(image, mask)


def read_class_ids(pair: Pair, image_size: tuple[int, int], config: Config) -> NDArray[np.uint8]:
    """Class ids uint8 `[h, w]` of the mask; `image_size` is width and height.

    Raises:
      BadPair: says what is wrong.
    """
    return _understood(pair, _read_mask(pair), image_size, config).class_ids


class _Mask(NamedTuple):
    """A mask that was understood; `is_kept`: records hold its file as it is."""

    class_ids: NDArray[np.uint8]
    is_kept: bool
    overlaps: int = 0


def _read_mask(pair: Pair) -> bytes:
    if pair.annotation is None:
        return _read(pair.mask)
    try:
        return pair.annotation.read()
    except BadAnnotation as bad:
        raise BadPair(Problem(pair.mask, *bad.words)) from None


def _understood(pair: Pair, content: bytes, image_size: tuple[int, int], config: Config) -> _Mask:
    if pair.annotation is not None:
        try:
            drawn = pair.annotation.draw(content, image_size, config)
        except BadAnnotation as bad:
            raise BadPair(Problem(pair.mask, *bad.words)) from None
        return _Mask(drawn.class_ids, False, drawn.overlaps)
    mask = _open(pair.mask, content, config)
    is_kept = _is_kept(mask, content) and mask.format == "PNG" and mask.mode == "RGB"
    return _Mask(_class_ids(pair, mask, image_size, config), is_kept)


def read_small(pair: Pair, size: tuple[int, int]) -> Image.Image:
    """The upright image in 8-bit RGB at another size, width and height; bicubic."""
    with Image.open(pair.image) as image:
        # JPEG is decoded at a fraction of its size; others take no notice.
        image.draft(None, size)
        upright = ImageOps.exif_transpose(image)
        return palette.as_rgb(upright).resize(size, Image.Resampling.BICUBIC)


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


def _count(class_ids: NDArray[np.uint8], config: Config) -> NDArray[np.int64]:
    """Labelled pixels of each class, int64 `[C]`."""
    return np.bincount(class_ids.ravel(), minlength=IGNORE_ID + 1)[: len(config.classes)].astype(np.int64)


def _brightness(image: Image.Image) -> float:
    """Mean grey level, 0 to 255."""
    levels = (image if image.mode == "L" else palette.as_rgb(image).convert("L")).histogram()
    return float(np.dot(levels, np.arange(256)) / sum(levels))


def _open(path: Path, encoded: bytes, config: Config) -> Image.Image:
    """A loaded image, upright; the size is checked before decoding. `info["turned"]` tells whether it was turned."""
    # Pillow only warns up to twice its own limit: ours is checked instead, and always.
    Image.MAX_IMAGE_PIXELS = None
    try:
        image = Image.open(io.BytesIO(encoded), formats=_FORMATS)
        if image.width * image.height > config.image.max_pixels:
            what = f"{image.width}x{image.height} pixels"
            expected = f"at most {config.image.max_pixels:,} pixels"
            raise BadPair(Problem(path, what, expected, "scale it down or raise image.max_pixels"))
        if image.format == "PNG":
            # Pillow decodes in spite of wrong checksums, TensorFlow does not.
            Image.open(io.BytesIO(encoded), formats=_FORMATS).verify()
        image.load()
        image_format, turned = image.format, image.getexif().get(_EXIF_ORIENTATION, 1) != 1
        upright = ImageOps.exif_transpose(image) if turned else image
    except UnidentifiedImageError:
        what = f"cannot be read (no {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]})"
        raise BadPair(Problem(path, what, "a whole image file", "replace it")) from None
    except (OSError, SyntaxError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadPair(Problem(path, f"cannot be read ({reason})", "a whole image file", "replace it")) from None
    upright.format = image_format
    upright.info["turned"] = turned
    return upright


def _is_kept(image: Image.Image, encoded: bytes) -> bool:
    """Whether TensorFlow reads the file as Pillow did."""
    # Pillow reads a PNG whose tail is missing, TensorFlow does not.
    whole = image.format != "PNG" or _PNG_END in encoded
    return image.format in _KEPT_FORMATS and not image.info["turned"] and whole


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _class_ids(pair: Pair, mask: Image.Image, image_size: tuple[int, int], config: Config) -> NDArray[np.uint8]:
    if mask.format in _LOSSY_FORMATS:
        raise BadPair(
            Problem(pair.mask, "a JPEG mask", "a lossless format", "JPEG blurs class borders: export the mask as PNG")
        )
    if mask.size != image_size:
        sizes = f"{mask.width}x{mask.height}, its image {pair.image.name} is {image_size[0]}x{image_size[1]}"
        raise BadPair(Problem(pair.mask, f"is {sizes}", "the same size", "export the mask at the image's size"))
    if mask.mode in _ID_MODES:
        return _checked_ids(pair.mask, np.asarray(mask.convert("L") if mask.mode == "LA" else mask), config)
    return _ids_from_colors(pair.mask, np.asarray(mask.convert("RGB")), config)


def _checked_ids(path: Path, values: NDArray[np.generic], config: Config) -> NDArray[np.uint8]:
    """Greyscale masks hold class ids; 255 is allowed for unlabelled pixels where an ignore colour is configured."""
    ids = values.astype(np.int64)
    known = (ids >= 0) & (ids < len(config.classes))
    if config.records.ignore_color is not None:
        known |= ids == IGNORE_ID
    if not known.all():
        wrong, count = np.unique(ids[~known], return_counts=True)
        what = f"{int(count.sum())} pixels with ids outside the classes ({', '.join(map(str, wrong[:5]))})"
        choices = ", ".join(f"{i} {c.name}" for i, c in enumerate(config.classes))
        raise BadPair(Problem(path, what, f"greyscale class ids {choices}", "correct the mask or the [[classes]]"))
    return ids.astype(np.uint8)


def _ids_from_colors(path: Path, mask_rgb: NDArray[np.uint8], config: Config) -> NDArray[np.uint8]:
    class_ids, known = palette.class_ids_from_rgb(mask_rgb, config.classes, config.records)
    if not known.all():
        raise BadPair(_unknown_colors(path, mask_rgb[~known], config))
    return class_ids


def _unknown_colors(path: Path, pixels: NDArray[np.uint8], config: Config) -> Problem:
    colors, counts = np.unique(pixels, axis=0, return_counts=True)
    commonest = colors[counts.argmax()].astype(int)
    distances = [int(np.square(commonest - np.array(c.color)).sum()) for c in config.classes]
    nearest = config.classes[int(np.argmin(distances))]
    what = (
        f"{len(pixels)} pixels of {len(colors)} colours outside the palette, most RGB {tuple(commonest.tolist())} "
        f"(nearest: {nearest.name} {nearest.color})"
    )
    choices = ", ".join(f"{c.name} {c.color}" for c in config.classes)
    return Problem(path, what, f"only {choices}", "correct the mask or the colours in [[classes]]")
