"""From thresholds to defects found and false regions, and the thresholds that reach a target.

A pixel is of its most probable defect class if that probability is above the class's threshold, else background. The
classes' regions so depend on their own threshold alone: each class has a curve of its own, and curves add up.
"""

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexunet.core.features import BACKGROUND_ID, IGNORE_ID
from flexunet.core.regions import are_false, are_found, connected_regions

if TYPE_CHECKING:
    from flexunet.core.config.operating import Target

# Half a logit apart, 0.0015 to 0.9985; ascending. A probability must be above a threshold, both as float32.
THRESHOLDS: Final = tuple(round(float(1 / (1 + np.exp(-logit))), 4) for logit in np.arange(-6.5, 7, 0.5))
PIXELS_OF_MEGAPIXEL: Final = 1e6


class DefectRule(NamedTuple):
    """What is counted: `gate.defect_overlap` and `gate.false_alarm_share`."""

    overlap: float
    false_share: float


class Scored(NamedTuple):
    """A prediction before any threshold, uint8 `[h, w]` both.

    `class_ids`: the most probable defect class; `levels`: how many of THRESHOLDS are below its probability.
    """

    class_ids: NDArray[np.uint8]
    levels: NDArray[np.uint8]


class Curves(NamedTuple):
    """Sums over images. `found`, `false` float64 `[C, thresholds]`; `present` float64 `[C]` defects; `pixels` labelled.

    Row 0, the background, stays 0.
    """

    found: NDArray[np.float64]
    false: NDArray[np.float64]
    present: NDArray[np.float64]
    pixels: float

    def plus(self, other: "Curves") -> "Curves":
        """Both together."""
        return Curves(
            self.found + other.found, self.false + other.false, self.present + other.present, self.pixels + other.pixels
        )


def curves_of(truth: NDArray[np.uint8], scored: Scored, num_classes: int, rule: DefectRule) -> Curves:
    """Counts of one image at each threshold; `truth`: class ids uint8 `[h, w]`."""
    labelled = truth != IGNORE_ID
    found, false = np.zeros((2, num_classes, len(THRESHOLDS)))
    present = np.zeros(num_classes)
    for class_id in range(BACKGROUND_ID + 1, num_classes):
        defects = connected_regions(truth == class_id)
        present[class_id] = defects.count
        levels = np.where(scored.class_ids == class_id, scored.levels, 0)
        before = 0
        # Nothing changes between thresholds that no pixel lies between.
        for level in np.flatnonzero(np.bincount(levels.ravel())[1:]) + 1:
            predicted = levels >= level
            regions = connected_regions(predicted & labelled)
            found[class_id, before:level] = np.count_nonzero(are_found(defects, predicted, rule.overlap))
            false[class_id, before:level] = np.count_nonzero(are_false(regions, truth, rule.false_share))
            before = level
    return Curves(found, false, present, float(np.count_nonzero(labelled)))


def choose(curves: Curves, target: "Target", pixel_size: float | None) -> list[int]:
    """Positions in THRESHOLDS, one for each defect class.

    A share of defects to find is reached in each class, with the fewest false regions. A bound on false regions is
    shared by the classes: what a lower threshold finds is weighed against the false regions that it costs, at one price
    in all classes, the lowest at which the bound is kept.

    Args:
      curves: sums over `eval`.
      target: what to reach.
      pixel_size: in millimetres; needed for a target per square metre.
    """
    classes = range(BACKGROUND_ID + 1, len(curves.present))
    if target.unit is None:
        return [_finding(curves, class_id, target.bound) for class_id in classes]
    area = curves.pixels / PIXELS_OF_MEGAPIXEL
    if target.unit == "square metre":
        assert pixel_size is not None
        area = curves.pixels * (pixel_size / 1000) ** 2
    for price in np.geomspace(1e-3, 1e3, 121):
        chosen = [_best(curves.found[c] - price * curves.false[c]) for c in classes]
        if sum(curves.false[c, at] for c, at in zip(classes, chosen, strict=True)) <= target.bound * area:
            return chosen
    return [_best(-curves.false[c]) for c in classes]


def false_regions_per_megapixel(false: float, pixels: float) -> float:
    """NaN without pixels."""
    return false / pixels * PIXELS_OF_MEGAPIXEL if pixels else float("nan")


def _finding(curves: Curves, class_id: int, share: float) -> int:
    """Of the thresholds that find the share, or as much as any does, one with the fewest false regions."""
    found, false = curves.found[class_id], curves.false[class_id]
    enough = found >= min(share * curves.present[class_id], found.max())
    return _best(np.where(enough, -false, -np.inf))


def _best(values: NDArray[np.float64]) -> int:
    """Of equals the one in the middle of a plateau, rather than at its edge, where the next image falls off."""
    best = np.flatnonzero(values == values.max())
    return int(best[len(best) // 2])
