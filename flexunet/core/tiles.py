"""How tiles are blended, in graphs and by clients alike."""

import math

import numpy as np
from numpy.typing import NDArray


def blending_window(height: int, width: int) -> NDArray[np.float32]:
    """Weights float32 `[height, width]`: a pyramid that falls to its least, never to 0, at the border.

    Neighbours' weights cross over linearly where they overlap, and what a tile says at its border, where it sees
    least of the surroundings, counts least.
    """
    return _ramp(height)[:, np.newaxis] * _ramp(width)[np.newaxis, :]


def _ramp(length: int) -> NDArray[np.float32]:
    distance = np.minimum(np.arange(1, length + 1), np.arange(length, 0, -1))
    return (distance / math.ceil(length / 2)).astype(np.float32)
