"""Whether the numbers of masks count objects, and name no classes."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexunet.core.regions import connected_regions

# Fewer masks of several numbers, or fewer different totals, classes may show by chance.
LEAST_MASKS: Final = 6
_LEAST_TOTALS: Final = 3
# What lies in front may divide an object.
_WHOLE_SHARE: Final = 0.9


class Numbered(NamedTuple):
    """The numbers of a mask.

    Attributes:
      total: how many there are.
      gapless: whether they run from 1 on and leave none out.
      whole: how many of them are one region; of a mask with gaps nobody asks.
    """

    total: int
    gapless: bool
    whole: int = 0


def numbered(numbers: NDArray[Any], void: int) -> Numbered:
    """Of a mask `[h, w]`; 0 is the background, and `void` nothing either."""
    found = np.unique(numbers[(numbers != 0) & (numbers != void)])
    if not np.array_equal(found, np.arange(1, len(found) + 1)):
        return Numbered(len(found), gapless=False)
    from scipy import ndimage

    boxes: Any = ndimage.find_objects(numbers.astype(np.int32))[: len(found)]
    regions = [connected_regions(numbers[box] == number).count for number, box in enumerate(boxes, start=1)]
    return Numbered(len(found), gapless=True, whole=regions.count(1))


def count_objects(masks: Sequence[Numbered]) -> bool:
    """Whether these are the numbers of objects, as far as anybody can tell.

    In each mask they run from 1 on without a gap, up to different numbers, and nearly each is one region. Classes are
    nowhere so tidy: a rare one leaves out commoner ones at times, and most occur in several places of an image.
    """
    shown = [mask for mask in masks if mask.total]
    several = sum(mask.total > 1 for mask in shown)
    regular = all(mask.gapless for mask in shown) and len({mask.total for mask in shown}) >= _LEAST_TOTALS
    pairs = sum(mask.total for mask in shown)
    return regular and several >= LEAST_MASKS and sum(mask.whole for mask in shown) >= _WHOLE_SHARE * pairs
