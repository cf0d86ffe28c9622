"""Intervals by a Poisson bootstrap over groups of near-duplicates, in a stream.

Each resample gives a group Poisson(1) copies, drawn from (seed, group) alone: images may arrive in any order and on any
worker, accumulators add up, and two models are measured on the same resamples. Hanley and MacGibbon 2006,
doi:10.1016/j.cmpb.2006.04.006; Chamandy et al. 2012 for streams.
"""

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

COVERAGE: Final = 0.95


def group_key(group: bytes) -> int:
    """64 bits that stand for a group: a set of them costs less than a set of names."""
    return int.from_bytes(hashlib.blake2b(group, digest_size=8).digest(), "little")


def group_weights(seed: int, group: int, resamples: int) -> NDArray[np.float64]:
    """How often each resample holds the group, `[resamples]`, whole numbers."""
    key = np.array([seed, group], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).poisson(1.0, resamples).astype(np.float64)


def interval(
    scores: NDArray[np.float64], parts: NDArray[np.float64], sizes: NDArray[np.float64], groups: int
) -> tuple[float, float]:
    """Lower and upper end of the 95 % interval of a score; NaN for fewer than two groups.

    The percentile interval covers too little when there are few groups. This is Hesterberg's expanded one (2015,
    doi:10.1080/00031305.2015.1089789): the percentiles are those of a t distribution. Its degrees of freedom are not
    the number of groups less one, as for a mean, since a class may be in few of them and most of its pixels in fewer:
    they are those of each part's effective number of groups, joined by Welch and Satterthwaite's formula. `make bench`
    prints the coverage.

    Args:
      scores: `[resamples]`.
      parts: `[resamples, K]`: the ratios that the score is the mean of, such as Dice of each class.
      sizes: `[resamples, K]`: their denominators.
      groups: how many there are.
    """
    if groups < 2 or np.isnan(scores).all():
        return float("nan"), float("nan")
    freedom = degrees_of_freedom(parts, sizes, groups)
    reach = np.sqrt((freedom + 1) / freedom) * special.stdtrit(freedom, (1 + COVERAGE) / 2)
    level = special.ndtr(-reach)
    low, high = np.nanquantile(scores, [level, 1 - level])
    return float(low), float(high)


def counted_interval(
    ratio: NDArray[np.float64], size: NDArray[np.float64], groups: int, is_share: bool
) -> tuple[float, float]:
    """`interval` of a ratio of counts, `[resamples]`, with the denominator `size`, `[resamples]`.

    Where nothing was counted, or of a share all, no resample differs, and the percentiles would claim to know. Then the
    other end is Clopper and Pearson's (1934, doi:10.1093/biomet/26.4.404), for the effective number of groups.

    Args:
      ratio: such as found defects by defects, or false regions by megapixels.
      size: of it.
      groups: how many there are.
      is_share: what is counted is a part of `size`; else a group counts as one that shows what was counted once.
    """
    low, high = interval(ratio, ratio[:, np.newaxis], size[:, np.newaxis], groups)
    if low != high:
        return low, high
    effective = float(np.clip(effective_groups(size[:, np.newaxis], groups)[0], 1, groups))
    # If more of all groups than this were otherwise, one of these would have been, with 97.5 %.
    unseen = 1 - ((1 - COVERAGE) / 2) ** (1 / effective)
    if low == 0:
        return low, unseen if is_share else float(unseen * effective / size.mean())
    return (1 - unseen if is_share and low == 1 else low), high


def effective_groups(sizes: NDArray[np.float64], groups: int) -> NDArray[np.float64]:
    """Kish's effective number of groups, `sum(size)**2 / sum(size**2)`, of each part, `[K]`; of 1,000 resamples to 5 %.

    A sum of a part's sizes over Poisson(1) weights has the mean `sum(size)` and the variance `sum(size**2)`.

    Args:
      sizes: such sums, `[resamples, K]`.
      groups: how many there are, and what a part without spread has.
    """
    spread = sizes.var(axis=0)
    return np.where(spread > 0, sizes.mean(axis=0) ** 2 / np.where(spread > 0, spread, 1), groups)


def degrees_of_freedom(parts: NDArray[np.float64], sizes: NDArray[np.float64], groups: int) -> float:
    """Between 1 and `groups` - 1, of the mean of `parts` `[resamples, K]` with denominators `sizes`."""
    effective = effective_groups(sizes, groups)
    # A part that no resample defines has no variance either, and drops out.
    variances = np.array([np.nanvar(part) if not np.isnan(part).all() else 0.0 for part in parts.T])
    if not variances.any():
        return max(1.0, min(float(effective.min()), groups) - 1)
    joined = variances.sum() ** 2 / (variances**2 / np.clip(effective - 1, 0.5, None)).sum()
    return float(np.clip(joined, 1, groups - 1))
