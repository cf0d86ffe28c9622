"""What kind of mistake a prediction makes: pixel by pixel for the picture, region by region for the counts."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from flexunet.core.config.data import Color
from flexunet.core.features import BACKGROUND_ID, IGNORE_ID
from flexunet.core.regions import are_false, are_found, connected_regions
from flexunet.core.results.model import ErrorCounts

RIGHT: Final = "right"
MISSED: Final = "missed"
FALSE_ALARM: Final = "alarm"
WRONG_CLASS: Final = "wrong"
# In the order of their ids in an error map, which begin with 1; 0 is background that was seen as such.
KINDS: Final = (RIGHT, MISSED, FALSE_ALARM, WRONG_CLASS)
# Okabe and Ito's palette: told apart by the colour-blind, and on grey steel.
COLORS: Final[dict[str, Color]] = {
    RIGHT: (0, 158, 115),
    MISSED: (213, 94, 0),
    FALSE_ALARM: (86, 180, 233),
    WRONG_CLASS: (240, 228, 66),
}


def error_map(truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Class ids uint8 `[h, w]` both -> 1 + position in KINDS, uint8 `[h, w]`; 0 where there is nothing to show."""
    defect, found = truth != BACKGROUND_ID, predicted != BACKGROUND_ID
    kinds = np.select(
        [truth == IGNORE_ID, defect & (truth == predicted), defect & ~found, ~defect & found, defect & found],
        [0, 1, 2, 3, 4],
        0,
    )
    return kinds.astype(np.uint8)


def count_errors(
    truth: NDArray[np.uint8], predicted: NDArray[np.uint8], num_classes: int, overlap: float, alarm_share: float
) -> list[ErrorCounts]:
    """Counts for each class id; those of the background stay 0.

    A defect, a connected region of one class in the truth, is right if the share `overlap` of its pixels was predicted
    as its class, as the gate has it. Of the others it is of the wrong class if more of its pixels were predicted as
    other defects than as background, else missed. A false alarm is a connected region predicted as one class most of
    which lies outside all defects, as `are_false` has it.
    """
    counts: list[ErrorCounts] = [_nothing() for _ in range(num_classes)]
    labelled = truth != IGNORE_ID
    for class_id in range(1, num_classes):
        _count_defects(counts[class_id], truth == class_id, predicted, class_id, overlap)
        regions = connected_regions((predicted == class_id) & labelled)
        counts[class_id]["alarm"] = int(np.count_nonzero(are_false(regions, truth, alarm_share)))
    return counts


def _nothing() -> ErrorCounts:
    return {"defects": 0, "right": 0, "missed": 0, "wrong": 0, "alarm": 0}


def _count_defects(
    counts: ErrorCounts, where: NDArray[np.bool_], predicted: NDArray[np.uint8], class_id: int, overlap: float
) -> None:
    defects = connected_regions(where)
    hits, nothing = defects.pixels(predicted == class_id), defects.pixels(predicted == BACKGROUND_ID)
    right = are_found(defects, predicted == class_id, overlap)
    wrong = ~right & (defects.pixels() - hits - nothing > nothing)
    counts["defects"], counts["right"], counts["wrong"] = defects.count, int(right.sum()), int(wrong.sum())
    counts["missed"] = defects.count - counts["right"] - counts["wrong"]
