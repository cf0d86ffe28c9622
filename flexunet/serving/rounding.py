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
    """Where rounding decides, bool `[...]`, of probabilities `[..., C]`: the two best are closer than `ROUNDING`.

    With thresholds of the defect classes it decides where one of those that are so close to the best of them may be
    above its own threshold, unless it is the only one and surely is. To look at the best alone is not enough: 0.30000
    under a threshold of 0.5 is background, until 0.29999 of a class whose threshold is 0.05 becomes the best.
    """
    if thresholds is None:
        best = np.partition(probabilities, -2, axis=-1)[..., -2:]
        return best[..., 1] - best[..., 0] < ROUNDING
    defects = probabilities[..., 1:]
    may_be_best = defects > defects.max(axis=-1, keepdims=True) - ROUNDING
    above = np.where(may_be_best, defects - np.asarray(thresholds), -np.inf).max(axis=-1)
    surely = (np.count_nonzero(may_be_best, axis=-1) == 1) & (above >= ROUNDING)
    return (above > -ROUNDING) & ~surely


def moved_pixels(counts: np.ndarray, others: np.ndarray) -> float:
    """Least number of pixels whose prediction differs between two matrices `[C, C]`, rows truth.

    Infinite where it cannot be rounding: the matrices hold other truths, or no numbers.
    """
    if not np.array_equal(counts.sum(axis=1), others.sum(axis=1)):
        return np.inf
    return float(np.abs(counts - others).sum() / 2)
