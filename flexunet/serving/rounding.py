"""What floating point may change between two runs of one model: sums in another order, and so a pixel or two.

A convolution adds in another order in a batch of three than alone: of 100 real images of 200x200 a third then have
another mask, by one or two pixels. Between runs of one batch size on one machine nothing changes.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Of a probability. Measured between batches of 1 and 3, float32: up to 2e-5; a hundred logits leave room for more.
ROUNDING: Final = 1e-3


def at_the_boundary(
    probabilities: NDArray[np.floating], thresholds: Sequence[float] | None = None
) -> NDArray[np.bool_]:
    """Where rounding decides, bool `[...]`: the two best of `[..., C]` are closer than `ROUNDING`; with thresholds of
    the defect classes, the best of those and its threshold, or, above it, the two best.
    """
    if thresholds is None:
        return _is_close_run(probabilities)
    defects = probabilities[..., 1:]
    above = defects.max(axis=-1) - np.asarray(thresholds)[defects.argmax(axis=-1)]
    of_two = _is_close_run(defects) if len(thresholds) > 1 else False
    return (np.abs(above) < ROUNDING) | (of_two & (above > 0))


def _is_close_run(probabilities: NDArray[np.floating]) -> NDArray[np.bool_]:
    best = np.partition(probabilities, -2, axis=-1)[..., -2:]
    return best[..., 1] - best[..., 0] < ROUNDING


def moved_pixels(counts: np.ndarray, others: np.ndarray) -> float:
    """Least number of pixels whose prediction differs between two matrices `[C, C]`, rows truth.

    Infinite where it cannot be rounding: the matrices hold other truths, or no numbers.
    """
    if not np.array_equal(counts.sum(axis=1), others.sum(axis=1)):
        return np.inf
    return float(np.abs(counts - others).sum() / 2)
