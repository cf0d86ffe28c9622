"""What a pair shows that a person may not have meant: boxes drawn as masks, and masks painted into images."""

import math
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexunet.core.features import BACKGROUND_ID, IGNORE_ID

# Smaller defects may be anything.
_LEAST_PIXELS: Final = 64
_MOST_PIXELS: Final = 1_000_000
# Grey levels: JPEG blurs paint by less, and no light colours steel by more.
_FLAT_LEVELS: Final = 8
_COLORFUL_LEVELS: Final = 64
# Of a mask laid over a grey image: how colourful it is, how alike its colour in most of its pixels (JPEG blurs rims),
# how little that follows the light, as rust's does, and how grey the rest is.
_TINT_LEVELS: Final = 40
_TINT_TOLERANCE: Final = 0.25
_TINT_SHARE: Final = 0.6
_TINT_SLOPE: Final = 0.1
_GREY_LEVELS: Final = 8
_SIDE: Final = 32


def are_boxes(class_ids: NDArray[np.uint8]) -> bool:
    """Whether all defects of a mask, uint8 `[h, w]`, are upright rectangles of more than one row and column.

    A region is one exactly if its outline never turns inwards: no square of two by two has three of its pixels.
    """
    defect = _defects(class_ids).view(np.uint8)
    area = int(np.count_nonzero(defect))
    if area < _LEAST_PIXELS or min(defect.shape) < 2:
        return False
    above = defect[:-1] + defect[1:]
    squares = above[:, :-1] + above[:, 1:]
    return not (squares == 3).any() and int(np.count_nonzero(squares == 4)) >= area / 2


def is_painted(image: Image.Image, class_ids: NDArray[np.uint8]) -> bool:
    """Whether an image shows a class of its mask, uint8 `[h, w]`, as one flat colour, or a grey image as one tint.

    Overlays do: laid over grey, a colour shifts the channels of all pixels by the same differences.
    """
    if image.mode != "RGB" or not _is_colorful(image, class_ids):
        return False
    # Enough to tell, and the sums below take 27 bytes of each.
    step = max(1, math.isqrt(class_ids.size // _MOST_PIXELS))
    rgb, some = np.asarray(image)[::step, ::step], class_ids[::step, ::step]
    is_grey = _is_grey(rgb[some == BACKGROUND_ID])
    regions = (rgb[some == class_id] for class_id in np.unique(some[_defects(some)]))
    return any(_is_paint(pixels) or (is_grey and _is_tint(pixels)) for pixels in regions)


def _is_colorful(image: Image.Image, class_ids: NDArray[np.uint8]) -> bool:
    """Whether a defect is more colourful than steel is, by a look at some of its pixels: all would take long."""
    some = np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.NEAREST)).reshape(-1, 3)
    rows, columns = (_looked_at(side) for side in class_ids.shape)
    defect = some[_defects(class_ids[rows[:, np.newaxis], columns]).ravel()]
    return len(defect) > 0 and bool(np.ptp(defect, axis=1).max() > _TINT_LEVELS)


@cache
def _looked_at(side: int) -> NDArray[np.intp]:
    """Rows, or columns, that resizing by nearest neighbour takes."""
    return ((np.arange(_SIDE) + 0.5) * side / _SIDE).astype(np.intp)


def _is_paint(pixels: NDArray[np.uint8]) -> bool:
    return (
        len(pixels) >= _LEAST_PIXELS
        and bool(pixels.std(axis=0).max() < _FLAT_LEVELS)
        and bool(np.ptp(pixels.mean(axis=0)) > _COLORFUL_LEVELS)
    )


def _is_grey(pixels: NDArray[np.uint8]) -> bool:
    return len(pixels) > 0 and bool(np.median(np.ptp(pixels, axis=1)) <= _GREY_LEVELS)


def _is_tint(pixels: NDArray[np.uint8]) -> bool:
    if len(pixels) < _LEAST_PIXELS:
        return False
    differences = np.diff(pixels.astype(np.float64), axis=1)
    tint = np.median(differences, axis=0)
    strength = np.ptp([0, tint[0], tint.sum()])
    alike = (np.abs(differences - tint) <= _TINT_TOLERANCE * strength).all(axis=1).mean()
    light = pixels.mean(axis=1)
    light -= light.mean()
    slopes = np.abs(light @ differences) / max(float(light @ light), 1.0)
    return bool(strength > _TINT_LEVELS and alike >= _TINT_SHARE and slopes.max() <= _TINT_SLOPE)


def _defects(class_ids: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return (class_ids != BACKGROUND_ID) & (class_ids != IGNORE_ID)
