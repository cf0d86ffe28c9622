"""Colours that are no class's, taken as the nearest class's: on request only, within bounds, and counted.

Tools that scale or smooth masks leave rims of mixed colours. A mixture lies between the colours that it is made of and
fills no area; a colour that fills one is a class that the palette lacks, and is refused.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexunet.core.config.whole import Config
from flexunet.core.features import IGNORE_ID
from flexunet.core.palette import class_ids_from_rgb, pack_rgb
from flexunet.core.readable import Words

# A square of one colour is no rim. Colours this near are the palette's own, rounded: JPEG's or a colour profile's.
_AREA_SIDE: Final = 3
_ROUNDING: Final = 24.0
_REPAIR: Final = "correct the mask or the colours in [[classes]]"


class Snapped(NamedTuple):
    """What the nearest colours give.

    Attributes:
      class_ids: uint8 `[h, w]`.
      changed: where the colour was no class's, bool `[h, w]`.
      refusal: why it may not be taken; None if it may.
    """

    class_ids: NDArray[np.uint8]
    changed: NDArray[np.bool_]
    refusal: Words | None


def snap(mask_rgb: NDArray[np.uint8], config: Config) -> Snapped:
    """Class ids of a mask, uint8 `[h, w, 3]`, each pixel's by the nearest colour, the ignore colour's included."""
    exact, known = class_ids_from_rgb(mask_rgb, config.classes, config.records)
    changed = ~known
    packed = pack_rgb(mask_rgb)
    colors, index = np.unique(packed[changed], return_inverse=True)
    nearest, distances = _nearest(colors, config)
    class_ids = exact.copy()
    class_ids[changed] = nearest[index]
    return Snapped(class_ids, changed, _refusal(packed, changed, colors, distances, config))


def _nearest(colors: NDArray[np.int32], config: Config) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Id and distance, in the cube of RGB, of the nearest class of each packed colour `[K]`."""
    palette = [c.color for c in config.classes]
    ids = [*range(len(palette))]
    if config.records.ignore_color is not None:
        palette.append(config.records.ignore_color)
        ids.append(IGNORE_ID)
    rgb = np.stack([colors >> 16, colors >> 8 & 255, colors & 255], axis=-1).astype(np.float64)
    squares = np.stack([np.square(rgb - color).sum(axis=-1) for color in palette], axis=-1)
    return np.array(ids, np.uint8)[squares.argmin(axis=-1)], np.sqrt(squares.min(axis=-1))


def _refusal(
    packed: NDArray[np.int32],
    changed: NDArray[np.bool_],
    colors: NDArray[np.int32],
    distances: NDArray[np.float64],
    config: Config,
) -> Words | None:
    from scipy import ndimage  # half a second that only masks with such colours cost

    records = config.records
    share = float(changed.mean())
    if share > records.nearest_share:
        what = f"{share:.1%} of the pixels have colours outside the palette"
        return Words(what, f"at most {records.nearest_share:.1%}, records.nearest_share", _REPAIR)
    if distances.max(initial=0) > records.nearest_distance:
        worst = int(distances.argmax())
        what = f"RGB {_rgb(colors[worst])} lies {distances[worst]:.0f} from the nearest class"
        return Words(what, f"at most {records.nearest_distance}, records.nearest_distance", _REPAIR)
    for color in colors[distances > _ROUNDING]:
        # Eroding finds where a whole square has the colour.
        if ndimage.binary_erosion(packed == color, np.ones((_AREA_SIDE, _AREA_SIDE), np.bool_)).any():
            what = f"RGB {_rgb(color)} fills areas of the mask, which no smoothed rim does"
            return Words(what, "a class of that colour, or none of it", _REPAIR)
    return None


def _rgb(color: np.int32) -> tuple[int, int, int]:
    return int(color) >> 16, int(color) >> 8 & 255, int(color) & 255
