"""Defects instead of pixels: which regions of the truth a prediction found, and whether it raised a false alarm."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from flexunet.core.config.gate import GateConfig
from flexunet.core.features import BACKGROUND_ID, IGNORE_ID

# Pixels that touch by a corner belong together: thin scratches run diagonally.
_NEIGHBORS = np.ones((3, 3), np.int8)


class Defects(NamedTuple):
    """Of one image. `found` and `present` float64 `[C]`: regions of each class; `largest`: pixels of the largest one.

    `clean`: labelled, and without a defect; `alarm`: clean, and enough of it was predicted to be one.
    """

    found: NDArray[np.float64]
    present: NDArray[np.float64]
    largest: int
    clean: bool
    alarm: bool


def find_defects(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], num_classes: int, gate: GateConfig) -> Defects:
    """Class ids uint8 `[h, w]` both.

    A defect is a connected region of one class in the truth, corners included. It is found if at least the share
    `gate.defect_overlap` of its pixels was predicted as its class.
    """
    found, present, largest = np.zeros(num_classes), np.zeros(num_classes), 0
    # bincount, not unique, which sorts all pixels.
    pixels = np.bincount(truth.ravel(), minlength=IGNORE_ID + 1)
    for class_id in np.flatnonzero(pixels[:num_classes]):
        if class_id != BACKGROUND_ID:
            regions = np.zeros(truth.shape, np.int32)
            count = int(ndimage.label(truth == class_id, _NEIGHBORS, output=regions))
            areas = np.bincount(regions.ravel(), minlength=count + 1)[1:]
            hits = np.bincount(regions[predicted == class_id], minlength=count + 1)[1:]
            present[class_id] = count
            found[class_id] = np.count_nonzero(hits >= gate.defect_overlap * areas)
            largest = max(largest, int(areas.max()))
    labelled = truth != IGNORE_ID
    clean = bool(labelled.any()) and largest == 0
    wrong = np.count_nonzero(predicted[labelled] != BACKGROUND_ID)
    alarm = clean and wrong > 0 and wrong >= gate.false_alarm_share * np.count_nonzero(labelled)
    return Defects(found, present, largest, clean, alarm)
