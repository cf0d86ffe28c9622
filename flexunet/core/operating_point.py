"""From thresholds and smallest regions to defects found and false regions, and those that reach a target.

A pixel is of its most probable defect class if that probability is above the class's threshold, else background; then
regions of fewer pixels than the class's smallest are background too. The classes' regions so depend on their own
threshold alone: each class has a curve of its own, and curves add up.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexunet.core.features import BACKGROUND_ID, IGNORE_ID
from flexunet.core.regions import Regions, are_false, connected_regions

if TYPE_CHECKING:
    from flexunet.core.config.operating import Target

# Half a logit apart, 0.0015 to 0.9985; ascending. A probability must be above a threshold, both as float32.
THRESHOLDS: Final = tuple(round(float(1 / (1 + np.exp(-logit))), 4) for logit in np.arange(-6.5, 7, 0.5))
# Pixels of the smallest region that counts.
SMALLEST: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
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
    """Sums over images. `found`, `false` float64 `[C, thresholds, sizes]`; `present` float64 `[C]` defects; `pixels`
    labelled. Row 0, the background, stays 0.
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


class Choice(NamedTuple):
    """Of a class: positions in THRESHOLDS and in SMALLEST."""

    threshold: int
    smallest: int


def curves_of(
    truth: NDArray[np.uint8],
    scored: Scored,
    num_classes: int,
    rule: DefectRule,
    smallest: Sequence[Sequence[int]],
) -> Curves:
    """Counts of one image at each threshold.

    Args:
      truth: class ids uint8 `[h, w]`.
      scored: what was predicted.
      num_classes: background included.
      rule: what is counted.
      smallest: by class id, for each of `sizes`: regions of fewer pixels are taken for background.
    """
    shape = (2, num_classes, len(THRESHOLDS), len(smallest[0]))
    found, false = np.zeros(shape)
    present = np.zeros(num_classes)
    for class_id in range(BACKGROUND_ID + 1, num_classes):
        defects = connected_regions(truth == class_id)
        present[class_id] = defects.count
        levels = np.where(scored.class_ids == class_id, scored.levels, 0)
        before = 0
        # Nothing changes between thresholds that no pixel lies between.
        for level in np.flatnonzero(np.bincount(levels.ravel())[1:]) + 1:
            counted = _count(defects, connected_regions(levels >= level), truth, rule, smallest[class_id])
            found[class_id, before:level], false[class_id, before:level] = counted
            before = level
    return Curves(found, false, present, float(np.count_nonzero(truth != IGNORE_ID)))


def _count(
    defects: Regions, predicted: Regions, truth: NDArray[np.uint8], rule: DefectRule, smallest: Sequence[int]
) -> NDArray[np.float64]:
    """Defects found and false regions, `[2, sizes]`."""
    pixels, false = predicted.pixels(), are_false(predicted, truth, rule.false_share)
    on_defects = defects.labels > 0
    # The size of the region that covers each pixel of a defect; 0: none does.
    covering = np.concatenate([[0], pixels])[predicted.labels[on_defects]]
    defect_of, least = defects.labels[on_defects], rule.overlap * defects.pixels()
    counted = np.zeros((2, len(smallest)))
    for place, size in enumerate(smallest):
        hits = np.bincount(defect_of[covering >= max(size, 1)], minlength=defects.count + 1)[1:]
        counted[:, place] = np.count_nonzero(hits >= least), np.count_nonzero(false & (pixels >= size))
    return counted


def choose(curves: Curves, target: "Target", pixel_size: float | None) -> list[Choice]:
    """One for each defect class.

    A share of defects to find is reached in each class, with the fewest false regions. A bound on false regions is
    shared by the classes: what is found is weighed against the false regions that it costs, at one price in all
    classes, the lowest at which the bound is kept; where none keeps it, the fewest false regions are left, and of those
    choices the one that finds the most.

    Args:
      curves: sums over `eval`, at THRESHOLDS and SMALLEST.
      target: what to reach.
      pixel_size: in millimetres; needed for a target per square metre.
    """
    classes = range(BACKGROUND_ID + 1, len(curves.present))
    # At low thresholds false regions grow together, at last to one as large as the image: that is no gain.
    curves = curves._replace(false=np.maximum.accumulate(curves.false[:, ::-1], axis=1)[:, ::-1])
    if target.unit is None:
        return [_finding(curves, class_id, target.bound) for class_id in classes]
    most = allowed_false(target, curves.pixels, pixel_size)
    chosen: list[Choice] = []
    # At the last price all defects together are worth less than one false region.
    for price in np.geomspace(1e-3, 2 * max(curves.present.sum(), 500), 181):
        chosen = [_best(curves.found[c] - price * curves.false[c]) for c in classes]
        if sum(curves.false[c][at] for c, at in zip(classes, chosen, strict=True)) <= most:
            break
    return chosen


def allowed_false(target: "Target", pixels: float, pixel_size: float | None) -> float:
    """False regions that a target allows on so many pixels; without limit if it is one of found defects."""
    if target.unit is None:
        return float("inf")
    if target.unit == "megapixel":
        return target.bound * pixels / PIXELS_OF_MEGAPIXEL
    assert pixel_size is not None
    return target.bound * pixels * (pixel_size / 1000) ** 2


def above(probabilities: NDArray[np.float32], thresholds: Sequence[float]) -> NDArray[np.uint8]:
    """Probabilities `[..., C]` -> class ids uint8 `[...]`; thresholds by class id, that of the background not used."""
    defects = probabilities[..., 1:]
    class_ids = defects.argmax(axis=-1) + 1
    least = np.asarray(thresholds, np.float32)[class_ids]
    return np.where(defects.max(axis=-1) > least, class_ids, BACKGROUND_ID).astype(np.uint8)


def false_regions_per_megapixel(false: float, pixels: float) -> float:
    """NaN without pixels."""
    return false / pixels * PIXELS_OF_MEGAPIXEL if pixels else float("nan")


def _finding(curves: Curves, class_id: int, share: float) -> Choice:
    """Of what finds the share, or as much as anything does, one with the fewest false regions."""
    found, false = curves.found[class_id], curves.false[class_id]
    enough = found >= min(share * curves.present[class_id], found.max())
    return _best(np.where(enough, -false, -np.inf))


def _best(values: NDArray[np.float64]) -> Choice:
    """Of `[thresholds, sizes]`; of equals the smallest size, and the threshold in the middle of the plateau rather than
    at its edge, where the next image falls off.
    """
    best = values == values.max()
    size = int(np.flatnonzero(best.any(axis=0))[0])
    plateau = np.flatnonzero(best[:, size])
    return Choice(int(plateau[len(plateau) // 2]), size)
