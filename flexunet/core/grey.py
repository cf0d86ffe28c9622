"""Numbers that tell a camera and its light: of images that are ingested, and of those that are served."""

from functools import cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_ROWS: Final = 32


class Grey(NamedTuple):
    """Of an image's grey levels, 0 to 255.

    Attributes:
      brightness: their mean.
      contrast: their standard deviation.
      sharpness: mean difference of neighbours, by the contrast; low where a camera is out of focus.
      histogram: int64 `[256]`.
    """

    brightness: float
    contrast: float
    sharpness: float
    histogram: NDArray[np.int64]


def grey_of(image: Image.Image) -> Grey:
    """Of a picture of 8 bits, in colour or grey."""
    grey = image if image.mode == "L" else image.convert("L")
    histogram = np.array(grey.histogram(), np.int64)
    brightness, contrast = _moments(histogram)
    return Grey(brightness, contrast, _differences(np.asarray(grey)) / max(1.0, contrast), histogram)


def _moments(histogram: NDArray[np.int64]) -> tuple[float, float]:
    """Mean and standard deviation of the grey levels."""
    levels, count = np.arange(256), histogram.sum()
    mean = float(histogram @ levels / count)
    return mean, float(np.sqrt(max(0.0, histogram @ levels**2 / count - mean**2)))


def _differences(grey: NDArray[np.uint8]) -> float:
    """Mean absolute difference of grey levels of neighbours, along and below some rows: all would cost more."""
    if min(grey.shape) == 1:
        return 0.0
    rows = _some_rows(len(grey))
    here, below = grey[rows].astype(np.int16), grey[rows + 1].astype(np.int16)
    return float(np.abs(np.diff(here)).mean() + np.abs(below - here).mean()) / 2


@cache
def _some_rows(height: int) -> NDArray[np.intp]:
    """Rows that have one below."""
    return np.unique(np.linspace(0, height - 2, _ROWS).astype(np.intp))
