"""From pixel counts to scores: the only place where Dice, IoU, precision and recall are computed.

Counts are `[..., C, C]`: rows are the true class, columns the predicted one, class 0 is the background; or `Margins`,
all that the scores need of them, 3 C numbers. A class that is absent from truth and prediction has no score: NaN, left
out of means.

`xp` is the array namespace: numpy, or keras.ops where the result must stay in a graph.
"""

from typing import Any, NamedTuple, TypeAlias

import numpy as np

Array: TypeAlias = Any
Namespace: TypeAlias = Any


class Margins(NamedTuple):
    """Per class `[..., C]` each: pixels predicted rightly, of the class, predicted as it."""

    hits: Array
    truth: Array
    predicted: Array


def _ratio(numerator: Array, denominator: Array, xp: Namespace) -> Array:
    defined = denominator > 0
    return xp.where(defined, numerator / xp.where(defined, denominator, 1), float("nan"))


def margins(counts: Array, xp: Namespace = np) -> Margins:
    """Margins of counts `[..., C, C]`; margins pass through."""
    if isinstance(counts, Margins):
        return counts
    hits = xp.diagonal(counts, axis1=-2, axis2=-1)
    return Margins(hits, xp.sum(counts, axis=-1), xp.sum(counts, axis=-2))


def dice(counts: Array, xp: Namespace = np) -> Array:
    """Dice per class `[..., C]`: 2 TP / (truth + prediction); Dice 1945, doi:10.2307/1932409."""
    hits, truth, predicted = margins(counts, xp)
    return _ratio(2 * hits, truth + predicted, xp)


def iou(counts: Array, xp: Namespace = np) -> Array:
    """Intersection over union per class `[..., C]`; Jaccard 1912."""
    hits, truth, predicted = margins(counts, xp)
    return _ratio(hits, truth + predicted - hits, xp)


def precision(counts: Array, xp: Namespace = np) -> Array:
    """Share of the pixels predicted as a class that are of it, `[..., C]`."""
    hits, _, predicted = margins(counts, xp)
    return _ratio(hits, predicted, xp)


def recall(counts: Array, xp: Namespace = np) -> Array:
    """Share of the pixels of a class that were predicted as it, `[..., C]`."""
    hits, truth, _ = margins(counts, xp)
    return _ratio(hits, truth, xp)


def pixel_accuracy(counts: Array, xp: Namespace = np) -> Array:
    """Share of all pixels predicted rightly, `[...]`. An all-background model does well by it: never gate on it."""
    hits, truth, _ = margins(counts, xp)
    return _ratio(xp.sum(hits, axis=-1), xp.sum(truth, axis=-1), xp)


def mean_defined(scores: Array, xp: Namespace = np) -> Array:
    """Mean over the last axis of the scores that are not NaN, `[...]`; NaN if none is."""
    defined = xp.logical_not(xp.isnan(scores))
    total = xp.sum(xp.where(defined, scores, 0.0), axis=-1)
    return _ratio(total, xp.sum(xp.where(defined, xp.ones_like(scores), 0.0), axis=-1), xp)


def foreground_dice(counts: Array, xp: Namespace = np) -> Array:
    """The headline: mean Dice over the defect classes, background left out, `[...]`."""
    return mean_defined(dice(counts, xp)[..., 1:], xp)


def dice_of_present(counts: Array, xp: Namespace = np) -> Array:
    """Mean Dice over the defect classes that the truth holds, `[...]`, NaN if it holds none.

    For a slice, an image, or the `eval` that steers training: in so little truth one stray pixel of an absent class
    would weigh as much as a whole class.
    """
    present = margins(counts, xp).truth > 0
    return mean_defined(xp.where(present, dice(counts, xp), float("nan"))[..., 1:], xp)


def share(part: Array, whole: Array) -> Array:
    """`part / whole`; NaN where there is nothing to be a part of."""
    return _ratio(np.asarray(part, np.float64), np.asarray(whole, np.float64), np)


def defined(score: Array) -> float | None:
    """A score as JSON has it: None for what is undefined."""
    return float(score) if np.isfinite(score) else None


def defined_interval(low: float, high: float) -> list[float] | None:
    """The ends of an interval; None where it has none, as with a single group."""
    return [low, high] if np.isfinite([low, high]).all() else None


def expected_calibration_error(bins: Array) -> float:
    """Mean distance of confidence from accuracy over all pixels; Guo et al. 2017, arXiv:1706.04599, equation 3.

    Args:
      bins: `[bins, 3]`: pixels, sum of their top class's probability, how many were right.
    """
    pixels, confidence, right = np.moveaxis(np.asarray(bins, np.float64), -1, 0)
    return float(share(np.abs(confidence - right).sum(), pixels.sum()))
