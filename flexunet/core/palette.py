"""Class ids <-> RGB colours in NumPy, by exact match, for files; transform_module/masks.py does it in graphs."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flexunet.core.config.data import Color, RecordsConfig, SegmentationClass
from flexunet.core.features import IGNORE_ID

# Where no ignore colour is configured, ignored pixels are drawn in a grey that no palette of ours uses.
_DEFAULT_IGNORE_COLOR: Color = (127, 127, 127)


def pack_rgb(rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
    """uint8 `[..., 3]` -> int32 `[...]`, 0xRRGGBB: one comparable number per colour."""
    packed = np.zeros((*rgb.shape[:-1], 4), np.uint8)
    for channel in range(3):
        packed[..., 2 - channel] = rgb[..., channel]
    return packed.view("<i4")[..., 0]


def color_table(classes: Sequence[SegmentationClass], ignore_color: Color | None = None) -> NDArray[np.uint8]:
    """uint8 `[256, 3]`: row `i` is the colour of id `i`; unused ids and IGNORE_ID have the ignore colour."""
    table = np.empty((256, 3), np.uint8)
    table[:] = ignore_color or _DEFAULT_IGNORE_COLOR
    table[: len(classes)] = [c.color for c in classes]
    return table


def rgb_from_class_ids(
    class_ids: NDArray[np.uint8], classes: Sequence[SegmentationClass], ignore_color: Color | None = None
) -> NDArray[np.uint8]:
    """Class ids uint8 `[...]` -> RGB uint8 `[..., 3]`."""
    return color_table(classes, ignore_color)[class_ids]


def class_ids_from_rgb(
    mask_rgb: NDArray[np.uint8], classes: Sequence[SegmentationClass], records: RecordsConfig
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """RGB uint8 `[..., 3]` -> class ids uint8 `[...]` and where the colour is in the palette, bool `[...]`."""
    packed = pack_rgb(mask_rgb)
    ids = np.full(packed.shape, IGNORE_ID, np.uint8)
    for class_id, (red, green, blue) in enumerate(c.color for c in classes):
        np.copyto(ids, class_id, where=packed == (red << 16 | green << 8 | blue))
    known = ids != IGNORE_ID
    if records.ignore_color is not None:
        known |= packed == pack_rgb(np.array(records.ignore_color, np.uint8))
    return ids, known
