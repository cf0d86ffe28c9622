"""Which pixels of a mask are left at the model's size; `transform_module/images.py` fits in graphs, a test compares.

Source of the rule: TensorFlow's ResizeNearestNeighbor with half-pixel centres, in float32 as its kernel has it.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from flexunet.core.config.data import ImageConfig

# Images at least so many times as long as wide are strips: tiles keep their scale.
STRIP: Final = 4
# The largest aspect by the smallest, of images that may all be stretched to one size.
ALIKE: Final = 1.1


def keeps_every_pixel(height: int, width: int, settings: ImageConfig) -> bool:
    """Whether an image of this size is not shrunk in any direction."""
    inner = inner_size(height, width, settings)
    return settings.fit == "tile" or (inner[0] >= height and inner[1] >= width)


def inner_size(height: int, width: int, settings: ImageConfig) -> tuple[int, int]:
    """Height and width of the part of the model's input that a resized image fills; not for `fit = "tile"`."""
    if settings.fit == "stretch":
        return settings.height, settings.width
    scale = min(settings.height / height, settings.width / width)
    inner = np.clip(np.rint(np.array([height, width]) * scale), 1, [settings.height, settings.width])
    return int(inner[0]), int(inner[1])


def at_model_size(class_ids: NDArray[np.generic], settings: ImageConfig) -> NDArray[np.generic]:
    """`[h, w]` -> what `fit` stretch or pad leaves of it by nearest neighbour, without padding."""
    own_height, own_width = class_ids.shape
    height, width = inner_size(own_height, own_width, settings)
    rows, columns = _nearest(height, own_height), _nearest(width, own_width)
    return class_ids[rows[:, np.newaxis], columns]


def _nearest(count: int, of: int) -> NDArray[np.int64]:
    """The indices that are left where `of` become `count`."""
    scale = np.float32(of) / np.float32(count)
    return np.minimum(np.floor((np.arange(count, dtype=np.float32) + np.float32(0.5)) * scale), of - 1).astype(np.int64)
