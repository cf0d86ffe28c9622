"""Defects instead of pixels: connected regions, and when a defect counts as found.

Pixels that touch at a corner belong together: thin scratches run diagonally.
"""

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
        labels = self.labels.ravel() if where is None else self.labels[where]
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
    """Which regions predicted as defects are false, bool `[count]`: most of it lies outside all defects, and that part
    alone is the share `share` of the labelled pixels. A rim around a defect is none, a large area that touches one is.

    Args:
      regions: of labelled pixels only.
      truth: class ids uint8 `[h, w]`.
      share: `gate.false_alarm_share`, inclusive.
    """
    outside = regions.pixels(truth == BACKGROUND_ID)
    return (2 * outside > regions.pixels()) & (outside >= share * np.count_nonzero(truth != IGNORE_ID))


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
    # bincount, not unique, which sorts all pixels.
    pixels = np.bincount(truth.ravel(), minlength=IGNORE_ID + 1)
    for class_id in np.flatnonzero(pixels[:num_classes]):
        if class_id != BACKGROUND_ID:
            defects = connected_regions(truth == class_id)
            seen = are_found(defects, predicted == class_id, overlap)
            present[class_id], found[class_id] = defects.count, np.count_nonzero(seen)
            each.append(np.stack([np.full(defects.count, class_id), defects.pixels(), seen.astype(np.int64)], axis=1))
    every = np.concatenate([np.zeros((0, 3), np.int64), *each])
    largest = int(every[:, 1].max(initial=0))
    labelled = truth != IGNORE_ID
    clean = bool(labelled.any()) and largest == 0
    wrong = int(np.count_nonzero(predicted[labelled] != BACKGROUND_ID))
    alarm = clean and wrong > 0 and wrong >= alarm_share * int(np.count_nonzero(labelled))
    for class_id in np.flatnonzero(np.bincount(predicted.ravel(), minlength=num_classes)):
        if class_id != BACKGROUND_ID:
            regions = connected_regions((predicted == class_id) & labelled)
            false[class_id] = np.count_nonzero(are_false(regions, truth, alarm_share))
    return Defects(found, present, largest, clean, alarm, false, every)
