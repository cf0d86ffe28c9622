"""What a pair shows that a person may not have meant: boxes drawn as masks, and masks painted into images."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexunet.core.features import BACKGROUND_ID, IGNORE_ID

# Smaller defects may be anything.
_LEAST_PIXELS: Final = 64
# Grey levels: JPEG blurs paint by less, and no light colours steel by more.
_FLAT_LEVELS: Final = 8
_COLORFUL_LEVELS: Final = 64
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
    """Whether an image shows a class of its mask, uint8 `[h, w]`, as one flat colour, as overlays of masks do."""
    if image.mode != "RGB" or not _is_colorful(image):
        return False
    rgb, defect = np.asarray(image), _defects(class_ids)
    return any(_is_paint(rgb[class_ids == class_id]) for class_id in np.unique(class_ids[defect]))


def _is_colorful(image: Image.Image) -> bool:
    """Whether some pixels have a colour; of grey steel, which most images show, a look at few of them is enough."""
    red, green, blue = np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.NEAREST)).reshape(-1, 3).T
    highest, lowest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    return bool((highest - lowest).max() > _COLORFUL_LEVELS)


def _is_paint(pixels: NDArray[np.uint8]) -> bool:
    return (
        len(pixels) >= _LEAST_PIXELS
        and bool(pixels.std(axis=0).max() < _FLAT_LEVELS)
        and bool(np.ptp(pixels.mean(axis=0)) > _COLORFUL_LEVELS)
    )


def _defects(class_ids: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return (class_ids != BACKGROUND_ID) & (class_ids != IGNORE_ID)
