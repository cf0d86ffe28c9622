"""From pixel counts to scores: the only place where Dice, IoU, precision and recall are computed.

Counts are `[..., C, C]`: rows are the true class, columns the predicted one, class 0 is the background. A class that is
absent from truth and prediction has no score: NaN, left out of means.

`xp` is the array namespace: numpy, or keras.ops where the result must stay in a graph.
"""

from typing import Any

import numpy as np

Array = Any


def _ratio(numerator: Array, denominator: Array, xp: Any) -> Array:
    defined = denominator > 0
    return xp.where(defined, numerator / xp.where(defined, denominator, 1), float("nan"))


def _true_positives(counts: Array, xp: Any) -> Array:
    return xp.diagonal(counts, axis1=-2, axis2=-1)


def dice(counts: Array, xp: Any = np) -> Array:
    """Dice per class `[..., C]`: 2 TP / (truth + prediction); Dice 1945, doi:10.2307/1932409."""
    return _ratio(2 * _true_positives(counts, xp), xp.sum(counts, axis=-1) + xp.sum(counts, axis=-2), xp)


def iou(counts: Array, xp: Any = np) -> Array:
    """Intersection over union per class `[..., C]`; Jaccard 1912."""
    hits = _true_positives(counts, xp)
    return _ratio(hits, xp.sum(counts, axis=-1) + xp.sum(counts, axis=-2) - hits, xp)


def precision(counts: Array, xp: Any = np) -> Array:
    """Share of the pixels predicted as a class that are of it, `[..., C]`."""
    return _ratio(_true_positives(counts, xp), xp.sum(counts, axis=-2), xp)


def recall(counts: Array, xp: Any = np) -> Array:
    """Share of the pixels of a class that were predicted as it, `[..., C]`."""
    return _ratio(_true_positives(counts, xp), xp.sum(counts, axis=-1), xp)


def pixel_accuracy(counts: Array, xp: Any = np) -> Array:
    """Share of all pixels predicted rightly, `[...]`. An all-background model does well by it: never gate on it."""
    return _ratio(xp.sum(_true_positives(counts, xp), axis=-1), xp.sum(counts, axis=(-2, -1)), xp)


def mean_defined(scores: Array, xp: Any = np) -> Array:
    """Mean over the last axis of the scores that are not NaN, `[...]`; NaN if none is."""
    defined = xp.logical_not(xp.isnan(scores))
    total = xp.sum(xp.where(defined, scores, 0.0), axis=-1)
    return _ratio(total, xp.sum(xp.where(defined, xp.ones_like(scores), 0.0), axis=-1), xp)


def foreground_dice(counts: Array, xp: Any = np) -> Array:
    """The headline: mean Dice over the defect classes, background left out, `[...]`."""
    return mean_defined(dice(counts, xp)[..., 1:], xp)
