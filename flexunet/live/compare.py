"""Whether served images are still those that a model was tried on: numbers with intervals, so that few raise no alarm.

Distributions are compared by the statistic of Kolmogorov and Smirnov. Two samples of the same kind differ by chance: by
more than 1.95 sqrt(1/n + 1/m) one time in a thousand (Smirnov 1948), so the distance of the kinds themselves is at
least the measured one less that. Of yes and no, such as whether an image shows a class, the ratio of the shares tells
more: a rare class that triples is a small distance. Its interval is made of Wilson's intervals of both shares (Donner
and Zou 2012, MOVER-R), which holds where one of them is 0.

Images of one coil resemble each other, which no interval here knows: hence bounds that a mere difference is not enough
for.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexunet.core.results.live import Moved
from flexunet.dataset.drift import chance_distance, distance
from flexunet.live.observe import SHOWN, Seen

# Below so many images nothing is said.
LEAST_IMAGES: Final = 30
_BOUND: Final = 0.1
_RATIO: Final = 1.25
_Z: Final = 2.576
# JSON has no infinity.
_MOST_RATIO: Final = 999.0
_QUANTILES: Final = (0.1, 0.5, 0.9)
# Of the median: under lamps that never change a hair's breadth is a distance of 1.
_LEAST_CHANGE: Final = 0.05

Values = NDArray[np.float64]


def compare(served: Sequence[Seen], reference: Sequence[Seen]) -> list[Moved]:
    """What moved first, then by how far; all cameras together, and each that has images enough."""
    groups: dict[str, list[Seen]] = {"": [*served]}
    for seen in served:
        if seen.camera:
            groups.setdefault(seen.camera, []).append(seen)
    found = [
        finding
        for camera, images in sorted(groups.items())
        if len(images) >= LEAST_IMAGES
        for finding in _findings(camera, images, reference)
    ]
    return sorted(found, key=lambda one: (not one["moved"], -_beyond(one)))


def _findings(camera: str, served: Sequence[Seen], reference: Sequence[Seen]) -> Iterator[Moved]:
    now, before = _numbers(served), _numbers(reference)
    for name in before:
        if len(now.get(name, ())) >= LEAST_IMAGES and len(before[name]):
            yield _of_distance(name, camera, now[name], before[name])
    now, before = _facts(served), _facts(reference)
    for name in sorted(now.keys() | before.keys()):
        # A class that only one of them knows was never shown in the other.
        never = np.zeros(0)
        yield _of_ratio(name, camera, now.get(name, never), before.get(name, never), len(served), len(reference))


def _numbers(images: Sequence[Seen]) -> dict[str, Values]:
    """By name, float64 `[n]`, of the images that have them."""
    side = [math.sqrt(seen.width * seen.height) for seen in images if seen.width and seen.height]
    found = {
        name: [value for seen in images if (value := getattr(seen, name)) is not None]
        for name in ("brightness", "contrast", "sharpness", "confidence")
    }
    return {name: np.array(values, np.float64) for name, values in {**found, "side": side}.items()}


def _facts(images: Sequence[Seen]) -> dict[str, Values]:
    """By name, 0 or 1 for each image that can tell, float64."""
    answered = [seen for seen in images if seen.valid]
    names = sorted({name for seen in answered for name in seen.shares})
    shown = {f"shows {name}": [seen.shares.get(name, 0.0) > SHOWN for seen in answered] for name in names}
    facts = {"refused": [not seen.valid for seen in images], **shown}
    return {name: np.array(values, np.float64) for name, values in facts.items()}


def _of_distance(name: str, camera: str, now: Values, before: Values) -> Moved:
    measured = distance(now, before)
    chance = chance_distance(now, before)
    low = max(0.0, measured - chance)
    quantiles = [np.quantile(values, _QUANTILES) for values in (now, before)]
    return {
        "feature": name,
        "camera": camera,
        "measure": "distance",
        "value": measured,
        "interval": [low, min(1.0, measured + chance)],
        "bound": _BOUND,
        "moved": bool(
            low > _BOUND and np.abs(quantiles[0] - quantiles[1]).max() > _LEAST_CHANGE * abs(quantiles[1][1])
        ),
        "images": len(now),
        "now": quantiles[0].tolist(),
        "before": quantiles[1].tolist(),
    }


def _of_ratio(name: str, camera: str, now: Values, before: Values, images: int, reference: int) -> Moved:
    of_now, of_before = len(now) or images, len(before) or reference
    value, low, high = _ratio(_share(float(now.sum()), of_now), _share(float(before.sum()), of_before))
    return {
        "feature": name,
        "camera": camera,
        "measure": "ratio",
        "value": value,
        "interval": [low, high],
        "bound": _RATIO,
        "moved": low > _RATIO or high < 1 / _RATIO,
        "images": of_now,
        "now": [float(now.mean()) if len(now) else 0.0],
        "before": [float(before.mean()) if len(before) else 0.0],
    }


class _Share(NamedTuple):
    """A share of images with its 99 % interval (Wilson 1927)."""

    value: float
    low: float
    high: float


def _share(count: float, images: int) -> _Share:
    value, square = count / images, _Z**2 / images
    middle = value + square / 2
    chance = math.sqrt(square * (value * (1 - value) + square / 4))
    low, high = ((middle - chance) / (1 + square), (middle + chance) / (1 + square))
    return _Share(value, max(0.0, low) if count else 0.0, min(1.0, high) if count < images else 1.0)


def _ratio(now: _Share, before: _Share) -> tuple[float, float, float]:
    """The ratio of two shares, and its ends (MOVER-R)."""
    product = now.value * before.value
    least = before.high * (2 * before.value - before.high)
    below = product**2 - now.low * (2 * now.value - now.low) * least
    most = before.low * (2 * before.value - before.low)
    above = product**2 - now.high * (2 * now.value - now.high) * most
    low = (product - math.sqrt(max(0.0, below))) / least if least else 0.0
    high = (product + math.sqrt(max(0.0, above))) / most if most else _MOST_RATIO
    value = now.value / before.value if before.value else _MOST_RATIO if now.value else 1.0
    return min(value, _MOST_RATIO), max(0.0, low), min(high, _MOST_RATIO)


def _beyond(found: Moved) -> float:
    """How far the nearer end of the interval is from no difference, by the bound."""
    low, high = found["interval"]
    if found["measure"] == "distance":
        return low / found["bound"]
    least, most = (math.log(max(end, 1 / _MOST_RATIO)) for end in (low, high))
    return max(least, -most, 0.0) / math.log(found["bound"])
