"""Reads one pair, checks it, and makes of it what goes into a record."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from dataset.groups import pixel_digest, thumbnail
from dataset.pairs import Pair
from dataset.problems import Problem
from pipeline import palette
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.features import IGNORE_ID

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
    """What a record holds: bytes that `tf.io.decode_image` reads, an RGB mask as PNG, and the image's own size, mean
    grey level and labelled pixels of each class.
    """

    image: bytes
    image_format: str
    mask: bytes
    height: int
    width: int
    brightness: float
    pixels: NDArray[np.int64]


@dataclass(frozen=True)
class Facts:
    """What is kept of a pair after it was checked; a few kilobytes."""

    pair: Pair
    height: int
    width: int
    pixels: NDArray[np.int64]
    brightness: float
    thumbnail: NDArray[np.float16]
    pixel_digest: str
    mask_digest: str
    digest: str
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
    image, _ = _open(pair.image, config)
    class_ids = read_class_ids(pair, image.size, config)
    digest = hashlib.sha256(pair.image.read_bytes() + b"\0" + pair.mask.read_bytes()).hexdigest()
    small = thumbnail(image).astype(np.float16)
    return Facts(
        pair=pair,
        height=image.height,
        width=image.width,
        pixels=_count(class_ids, config),
        brightness=_brightness(image),
        thumbnail=small,
        pixel_digest=pixel_digest(image),
        mask_digest=hashlib.sha256(class_ids.tobytes()).hexdigest(),
        digest=digest,
    )


def read_content(pair: Pair, config: Config) -> Content:
    """What goes into the record; masks become RGB PNG, images stay as they are where TensorFlow can read them.

    Raises:
      BadPair: says what is wrong.
    """
    image, turned = _open(pair.image, config)
    class_ids = read_class_ids(pair, image.size, config)
    mask = palette.rgb_from_class_ids(class_ids, config.classes, config.records.ignore_color)
    encoded, image_format = _encode(pair.image, image, turned)
    return Content(
        image=encoded,
        image_format=image_format,
        mask=_png(Image.fromarray(mask)),
        height=image.height,
        width=image.width,
        brightness=_brightness(image),
        pixels=_count(class_ids, config),
    )


def _count(class_ids: NDArray[np.uint8], config: Config) -> NDArray[np.int64]:
    """Labelled pixels of each class, int64 `[C]`."""
    return np.bincount(class_ids[class_ids != IGNORE_ID], minlength=len(config.classes)).astype(np.int64)


def _brightness(image: Image.Image) -> float:
    """Mean grey level, 0 to 255, of a copy of at most 50x50: the mean does not need every pixel."""
    return float(np.asarray(palette.as_rgb(image).convert("L").reduce(max(1, min(image.size) // 50))).mean())


def _open(path: Path, config: Config) -> tuple[Image.Image, bool]:
    """A loaded, upright image, and whether it had to be turned; the size is checked before decoding."""
    # Pillow only warns up to twice its own limit: ours is checked instead, and always.
    Image.MAX_IMAGE_PIXELS = None
    try:
        image = Image.open(path, formats=_FORMATS)
        if image.width * image.height > config.image.max_pixels:
            what = f"{image.width}x{image.height} pixels"
            expected = f"at most {config.image.max_pixels:,} pixels"
            raise BadPair(Problem(path, what, expected, "scale it down or raise image.max_pixels"))
        image.load()
        upright = ImageOps.exif_transpose(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        reason = next(iter(str(error).replace(str(path), "it").splitlines()), type(error).__name__)
        raise BadPair(Problem(path, f"cannot be read ({reason})", "a whole image file", "replace it")) from None
    turned = image.getexif().get(_EXIF_ORIENTATION, 1) != 1
    upright.format = image.format
    return upright, turned


def _encode(path: Path, image: Image.Image, turned: bool) -> tuple[bytes, str]:
    if not turned and image.format in _KEPT_FORMATS and image.mode in _KEPT_MODES:
        encoded = path.read_bytes()
        # Pillow reads a PNG whose tail is missing, TensorFlow does not.
        if image.format != "PNG" or _PNG_END in encoded:
            return encoded, _KEPT_FORMATS[image.format]
    return _png(palette.as_rgb(image)), "png"


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def read_class_ids(pair: Pair, image_size: tuple[int, int], config: Config) -> NDArray[np.uint8]:
    """Class ids uint8 `[h, w]` of the mask; `image_size` is width and height.

    Raises:
      BadPair: says what is wrong.
    """
    mask, _ = _open(pair.mask, config)
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
