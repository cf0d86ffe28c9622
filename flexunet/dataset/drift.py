"""What moved between the newest span alone and all those before it, from numbers that are kept of each image.

Two distributions are compared by the statistic of Kolmogorov and Smirnov, the largest difference of their cumulative
distributions: 0 to 1, without bins. Two samples of the same kind differ by chance; beyond 1.95 sqrt(1/n + 1/m) one time
in a thousand (Smirnov 1948), and below a quarter nobody needs to act.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flexunet.core.config.data import SegmentationClass
from flexunet.core.results.data import Drift, DriftFinding
from flexunet.dataset.assignment import Assignment, Row, measures_of

MEASURE: Final = "Kolmogorov-Smirnov"
_LEAST: Final = 0.25
# Samples of a few images that do not overlap at all have moved.
_MOST: Final = 0.95
NEAR_DUPLICATES: Final = "near-duplicates of earlier images"

Values = NDArray[np.float64]


def drift(rows: Sequence[Row], before: Mapping[int, Assignment], classes: Sequence[SegmentationClass]) -> Drift:
    """Compares the images of a span with those of the spans before it, by their numbers.

    Args:
      rows: the span.
      before: the spans before it. Those that an earlier version wrote have no numbers, and are left out.
      classes: whose shares are compared.
    """
    known = {number: assignment for number, assignment in before.items() if assignment.measures}
    if not known:
        return {"compared_with_spans": [], "measure": MEASURE, "features": []}
    now, past = measures_of([row.facts for row in rows], classes), _joined([*known.values()])
    features = [_finding(name, values, past[name]) for name, values in now.items() if name in past]
    groups = {group for assignment in known.values() for group in assignment.groups}
    features.append(_repeated(np.mean([row.group in groups for row in rows]).item()))
    return {"compared_with_spans": sorted(known), "measure": MEASURE, "features": features}


def drift_words(found: Drift) -> Iterator[str]:
    """What moved, a sentence for each number."""
    spans = " and ".join(map(str, found["compared_with_spans"]))
    for feature in found["features"]:
        measured, bound, now, before = (feature[key] for key in ("distance", "threshold", "now", "before"))
        if feature["moved"] and before is None:
            yield f"{measured:.0%} of the images are near-duplicates of images of span {spans}: they teach little"
        elif feature["moved"]:
            yield (
                f"{feature['feature']} moved: {now:.4g} in the median, {before:.4g} in span {spans} (distance "
                f"{measured:.3f}, at most {bound:.3f}): the same camera, light and goods?"
            )


def distance(one: Values, other: Values) -> float:
    """The statistic of Kolmogorov and Smirnov of two samples."""
    points = np.concatenate([one, other])
    shares = [np.searchsorted(np.sort(sample), points, side="right") / len(sample) for sample in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


def chance_distance(one: Values, other: Values) -> float:
    """The distance that two samples of the same kind exceed one time in a thousand (Smirnov 1948)."""
    return 1.95 * math.sqrt(1 / len(one) + 1 / len(other))


def _finding(name: str, now: Values, before: Values) -> DriftFinding:
    threshold = min(_MOST, max(_LEAST, chance_distance(now, before)))
    measured = distance(_three_digits(now), _three_digits(before))
    # The median of yes and no says nothing.
    middle = np.mean if set(np.unique(before)) <= {0.0, 1.0} else np.median
    return {
        "feature": name,
        "distance": measured,
        "threshold": threshold,
        "moved": measured > threshold,
        "now": float(middle(now)),
        "before": float(middle(before)),
    }


def _three_digits(values: Values) -> Values:
    """Of numbers that are nearly the same in all images a hair's breadth would count as much as another camera."""
    steps = 10.0 ** (np.floor(np.log10(np.where(values == 0, 1, np.abs(values)))) - 2)
    return np.round(values / steps) * steps


def _repeated(share: float) -> DriftFinding:
    return {
        "feature": NEAR_DUPLICATES,
        "distance": share,
        "threshold": _LEAST,
        "moved": share > _LEAST,
        "now": share,
        "before": None,
    }


def _joined(assignments: Sequence[Assignment]) -> dict[str, Values]:
    names = set.intersection(*(set(assignment.measures) for assignment in assignments))
    return {name: np.concatenate([a.measures[name] for a in assignments]) for name in names}
