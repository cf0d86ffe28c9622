"""How numbers of more than 8 bits become grey levels: never guessed; `transform_module/images.py` does it in graphs.

Where white lies is known of 8 bits and of 16 bits that are in use; else `image.value_range` says it. A level is
`floor(256 (value - black) / (white - black + 1))` for integers and `floor(256 (value - black) / (white - black))`, 255
at white, for floats: of whole 16 bits the high byte, of 12 bits the highest eight, of k / 255 in floats exactly k.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from flexunet.core import readable
from flexunet.core.readable import Words

ValueRange = tuple[float, float]

_LEVELS: Final = 256
# Of each dtype, as a message calls its pictures.
_NAMES: Final = {"u": "a picture of 16 bits", "i": "a picture of large or signed integers", "f": "a picture of floats"}


class UnknownRange(ValueError):
    """A picture whose numbers cannot be brought to grey levels; says why in `words`."""

    def __init__(self, words: Words) -> None:
        self.words = words
        super().__init__(str(words))


def grey_levels(values: NDArray[np.generic], bits: int, given: ValueRange | None) -> NDArray[np.uint8]:
    """Numbers `[h, w]` -> grey levels uint8 `[h, w]`.

    Args:
      values: unsigned or signed integers, or floats.
      bits: how many of an unsigned integer the file says are in use, such as 12 or 16; 0 where it does not say.
      given: `image.value_range`, black and white; None where it is unset.

    Raises:
      UnknownRange: the range is neither given nor told by the file, or values lie outside it.
    """
    kind, lowest, highest = values.dtype.kind, float(values.min()), float(values.max())
    name = _NAMES[kind]
    if not np.isfinite([lowest, highest]).all():
        raise UnknownRange(Words(f"{name} that are not all numbers", "finite values", "replace them by a number"))
    black, white = given or _told(bits, highest) or (None, None)
    if black is None or white is None:
        raise UnknownRange(readable.UNUSED_16_BITS if bits else readable.unknown_range(name, lowest, highest))
    if lowest < black or highest > white:
        raise UnknownRange(readable.OUTSIDE_RANGE)
    width = white - black + (kind != "f")
    levels = np.floor((values.astype(np.float64) - black) * _LEVELS / width)
    return np.minimum(levels, _LEVELS - 1).astype(np.uint8)


def _told(bits: int, highest: float) -> ValueRange | None:
    """The range that the file itself tells; 16 bits are believed where more than a camera's 14 are in use."""
    if bits == 16 and highest < readable.LEAST_OF_16_BITS:
        return None
    return (0.0, 2.0**bits - 1) if bits else None
