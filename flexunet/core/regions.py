"""Defects instead of pixels: connected regions, and when a defect counts as found.

Pixels that touch at a corner belong together: thin scratches run diagonally.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexunet.core.features import BACKGROUND_ID, IGNORE_ID


@dataclass(frozen=True)
class Regions:
    """The connected regions of a picture: `labels` int32 `[h, w]`, 0 outside and else 1 to `count`."""

    labels: NDArray[np.int32]
    count: int

    def pixels(self, where: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Pixels of each region, int64 `[count]`; only those in `where`, bool `[h, w]`, if it is given."""
        return self._pixels if where is None else self._counted(self.labels[where])

    @functools.cached_property
    def _pixels(self) -> NDArray[np.int64]:
        return self._counted(self.labels.ravel())

    def _counted(self, labels: NDArray[np.int32]) -> NDArray[np.int64]:
        return np.bincount(labels, minlength=self.count + 1)[1:]

    def boxes(self) -> list[tuple[int, int, int, int]]:
        """Left, top, width and height of each region."""
        from scipy import ndimage

        found: Any = ndimage.find_objects(self.labels)
        return [(x.start, y.start, x.stop - x.start, y.stop - y.start) for y, x in found]


def connected_regions(where: NDArray[np.bool_]) -> Regions:
    """The 8-connected regions of bool `[h, w]`."""
    from scipy import ndimage  # a third of a second that nobody waits for who only wants masks

    labels = np.zeros(where.shape, np.int32)
    # Given where to write, it returns the number alone, which its stubs do not know.
    count: Any = ndimage.label(where, np.ones((3, 3), np.int8), output=labels)
    return Regions(labels, int(count))


def are_found(defects: Regions, predicted: NDArray[np.bool_], overlap: float) -> NDArray[np.bool_]:
    """Which defects of one class are found, bool `[count]`: the share `overlap` of their pixels was predicted as it.

    Args:
      defects: regions of the class in the truth.
      predicted: where the class was predicted, bool `[h, w]`.
      overlap: the share, inclusive.
    """
    return defects.pixels(predicted) >= overlap * defects.pixels()


def are_false(regions: Regions, truth: NDArray[np.uint8], share: float) -> NDArray[np.bool_]:
    """Which regions predicted as one class are false, bool `[count]`.

    Most of it lies outside all defects, and that part alone is the share `share` of the labelled pixels: a rim around a
    defect is no false region, a large area that touches one is.

    Args:
      regions: of the prediction; what nobody labelled counts neither as inside nor as outside.
      truth: class ids uint8 `[h, w]`.
      share: `gate.false_alarm_share`, inclusive.
    """
    labelled = truth != IGNORE_ID
    where = labelled & (regions.labels > 0)
    # No other pixel is looked at.
    sides = 2 * regions.labels[where] + (truth[where] == BACKGROUND_ID)
    inside, outside = np.bincount(sides, minlength=2 * regions.count + 2).reshape(-1, 2)[1:].T
    return (outside > inside) & (outside >= share * np.count_nonzero(labelled))


def count_false(predicted: NDArray[np.bool_], truth: NDArray[np.uint8], share: float) -> int:
    """How many regions of `predicted`, bool `[h, w]`, are false."""
    # Most images have none, which needs no labelling to be seen.
    if np.count_nonzero(predicted & (truth == BACKGROUND_ID)) < max(share * np.count_nonzero(truth != IGNORE_ID), 1):
        return 0
    return int(np.count_nonzero(are_false(connected_regions(predicted), truth, share)))


def without_small(class_ids: NDArray[np.uint8], smallest: Sequence[int]) -> NDArray[np.uint8]:
    """Class ids uint8 `[h, w]` whose regions of fewer pixels than their class's smallest are background.

    Args:
      class_ids: what was predicted.
      smallest: in pixels, by class id; that of the background does not matter.
    """
    kept = class_ids
    for class_id, pixels in enumerate(smallest):
        if class_id != BACKGROUND_ID and pixels > 1:
            regions = connected_regions(class_ids == class_id)
            small = np.concatenate([[False], regions.pixels() < pixels])
            kept = np.where(small[regions.labels], np.uint8(BACKGROUND_ID), kept)
    return kept


class Defects(NamedTuple):
    """Defects of one image. `found` and `present` float64 `[C]`: regions by class; `largest`: its pixels.

    `clean`: labelled, and without a defect; `alarm`: clean, and enough of it was predicted to be one; `false` float64
    `[C]`: false regions by the class that was predicted; `each` int64 `[defects, 3]`: class, pixels, 1 if it was found.
    """

    found: NDArray[np.float64]
    present: NDArray[np.float64]
    largest: int
    clean: bool
    alarm: bool
    false: NDArray[np.float64]
    each: NDArray[np.int64]


def find_defects(
    truth: NDArray[np.uint8], predicted: NDArray[np.uint8], num_classes: int, overlap: float, alarm_share: float
) -> Defects:
    """Counts the defects of an image, and those that were found; class ids uint8 `[h, w]` both.

    Args:
      truth: a defect is a connected region of one class in it.
      predicted: what a model gave.
      num_classes: background included.
      overlap: `gate.defect_overlap`, as `are_found` has it.
      alarm_share: `gate.false_alarm_share` of the labelled pixels.
    """
    found, present, false = np.zeros((3, num_classes))
    each: list[NDArray[np.int64]] = []
    for class_id in range(BACKGROUND_ID + 1, num_classes):
        here = truth == class_id
        if here.any():
            defects = connected_regions(here)
            seen = are_found(defects, predicted == class_id, overlap)
            present[class_id], found[class_id] = defects.count, np.count_nonzero(seen)
            each.append(np.stack([np.full(defects.count, class_id), defects.pixels(), seen.astype(np.int64)], axis=1))
    every = np.concatenate([np.zeros((0, 3), np.int64), *each])
    largest = int(every[:, 1].max(initial=0))
    labelled = truth != IGNORE_ID
    clean = bool(labelled.any()) and largest == 0
    wrong = int(np.count_nonzero(labelled & (predicted != BACKGROUND_ID))) if clean else 0
    alarm = wrong > 0 and wrong >= alarm_share * int(np.count_nonzero(labelled))
    for class_id in range(num_classes):
        if class_id != BACKGROUND_ID:
            false[class_id] = count_false(predicted == class_id, truth, alarm_share)
    return Defects(found, present, largest, clean, alarm, false, every)
