"""Probability of detection against size, from defects that were found or missed: MIL-HDBK-1823A, hit/miss data.

ln(p / (1 - p)) = intercept + slope ln(size), fitted by maximum likelihood. The size of a defect is the side of the
square of its area, in pixels. a90 is the size of which 90 % are found; a90/95 is its upper bound at 95 % confidence,
from the profile likelihood. The handbook counts flaws, not looks at them: whoever has several looks at one weighs them.
Nothing is said of sizes that were not measured: a curve goes on beyond them, what it says there nobody saw.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

Numbers = NDArray[np.float64]

PROBABILITY: Final = 0.9
CONFIDENCE: Final = 0.95
# So many found and none missed prove 90 % at 95 % confidence, fewer do not: 0.9 ** 29 < 0.05 < 0.9 ** 28.
PROVING: Final = 29
# Defects are counted by size in steps of an eighth of a doubling of their area, 4 % of a side.
_STEPS: Final = 8
_ITERATIONS: Final = 60
_CONVERGED: Final = 1e-9


class Detections(NamedTuple):
    """Defects by size, ascending: ln(size) `[n]`, how many were present and found, `[..., n]` both, weighted or not."""

    log_sizes: Numbers
    present: Numbers
    found: Numbers

    def weighted(self, weight: float) -> "Detections":
        """Each counting for so much: the curve stays, what it proves does not."""
        return self._replace(present=self.present * weight, found=self.found * weight)


class Model(NamedTuple):
    """Of the logistic curve, `[...]` both; NaN where no curve of finite slope is the likeliest."""

    intercept: Numbers
    slope: Numbers

    def probability(self, log_size: float | Numbers) -> Numbers:
        """The probability that a defect of this size is found."""
        return special.expit(self.intercept + self.slope * log_size)

    @property
    def log_a90(self) -> Numbers:
        """ln(a90), NaN where larger defects are not found more often."""
        with np.errstate(divide="ignore", invalid="ignore"):
            at = (special.logit(PROBABILITY) - self.intercept) / self.slope
        return np.where(self.slope > 0, at, np.nan)


def size_step(pixels: int) -> int:
    """The step of a defect of so many pixels, at least 1."""
    return round(_STEPS * float(np.log2(pixels)))


def log_size(step: int) -> float:
    """ln of the side, in pixels, of a defect of this step."""
    return step / _STEPS * float(np.log(2)) / 2


def fit(detections: Detections) -> Model:
    """Maximum likelihood by Newton's method; each leading index is a fit of its own."""
    center = float(detections.log_sizes.mean())
    x = detections.log_sizes - center
    shape = detections.present.shape[:-1]
    intercept, slope, step = np.zeros(shape), np.zeros(shape), np.full(shape, np.inf)
    for _ in range(_ITERATIONS):
        expected = special.expit(intercept[..., np.newaxis] + slope[..., np.newaxis] * x)
        residual, weight = (
            detections.found - detections.present * expected,
            detections.present * expected * (1 - expected),
        )
        gradient = residual.sum(-1), (residual * x).sum(-1)
        a, b, c = weight.sum(-1), (weight * x).sum(-1), (weight * x * x).sum(-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            determinant = a * c - b * b
            change = np.stack([c * gradient[0] - b * gradient[1], a * gradient[1] - b * gradient[0]]) / determinant
        # A step of a few logits never leaves the region in which Newton's method finds its way.
        change = np.clip(np.nan_to_num(change, nan=0.0, posinf=0.0, neginf=0.0), -4, 4)
        intercept, slope = intercept + change[0], slope + change[1]
        step = np.where(determinant > 0, np.abs(change).max(0), np.inf)
        if (step < _CONVERGED).all():
            break
    undefined = ~(step < _CONVERGED)
    slope = np.where(undefined, np.nan, slope)
    return Model(np.where(undefined, np.nan, intercept) - slope * center, slope)


def a90(detections: Detections) -> float:
    """In pixels; NaN where the curve does not rise to 90 % within the sizes of `detections`, counts `[n]`."""
    log_a = float(fit(detections).log_a90)
    is_measured = detections.log_sizes[0] <= log_a <= detections.log_sizes[-1]
    return float(np.exp(log_a)) if is_measured else float("nan")


def a90_95(detections: Detections) -> float:
    """In pixels; NaN where nothing is proven.

    The size from which on, up to the largest, the lower bound of the curve is at least 90 %: that of the likelihood
    ratio of a one-sided 95 %, the slope being free. Never below the smallest size, however good the curve is there.
    Where sizes of found and missed defects do not overlap there is no such curve: then the size up to which so many
    larger than all that were missed were found that 90 % is proven, larger ones being found no less often.

    Args:
      detections: counts `[n]` of defects that were found or missed each for itself.
    """
    if detections.present.sum() < PROVING:
        return float("nan")
    model = fit(detections)
    if np.isnan(model.slope):
        return _by_counting(detections)
    best = _log_likelihood(model.probability(detections.log_sizes), detections)
    # Of chi-squared with one degree of freedom; scipy.stats is not imported for it, which takes a second and a half.
    allowed = float(special.chdtri(1, 2 - 2 * CONFIDENCE)) / 2

    def excess(log_a: float) -> float:
        """Above 0 where 90 % are proven. The bound is the least of straight lines, those of all curves allowed, and so
        concave: if the largest size is proven, all are from one size on."""
        is_reached = model.probability(log_a) > PROBABILITY
        ratio = best - _profile(log_a, detections)
        return (ratio if is_reached else -ratio) - allowed

    smallest, largest = float(detections.log_sizes[0]), float(detections.log_sizes[-1])
    if excess(largest) < 0:
        return float("nan")
    return float(np.exp(smallest if excess(smallest) >= 0 else _root(excess, smallest, largest)))


def _profile(log_a: float, detections: Detections) -> float:
    """The largest log-likelihood of a curve that reaches 90 % at this size."""
    x, at = detections.log_sizes - log_a, special.logit(PROBABILITY)

    def score(slope: float) -> float:
        return float(((detections.found - detections.present * special.expit(at + slope * x)) * x).sum())

    limit = 1.0
    while score(-limit) < 0 or score(limit) > 0:
        limit *= 2
        if limit > 1e4:
            break
    low, high = score(-limit), score(limit)
    # Far from the sizes both ends are flat: a score of exactly 0 is where the curve has become a step.
    slope = _root(score, -limit, limit) if low > 0 > high else (limit if low > 0 else -limit)
    return _log_likelihood(special.expit(at + slope * x), detections)


def _log_likelihood(probability: Numbers, detections: Detections) -> float:
    missed = detections.present - detections.found
    terms = special.xlogy(detections.found, probability) + special.xlog1py(missed, -probability)
    return float(terms.sum())


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    found: Any = optimize.brentq(function, low, high, xtol=1e-12)
    return found


def _by_counting(detections: Detections) -> float:
    missed = np.flatnonzero(detections.present > detections.found)
    first = missed[-1] + 1 if missed.size else 0
    enough = np.flatnonzero(np.cumsum(detections.found[first:]) >= PROVING)
    return float(np.exp(detections.log_sizes[first + enough[0]])) if enough.size else float("nan")
