"""What of the masks is left at the model's size: resizing by nearest neighbour deletes what is thin or small.

A defect, an 8-connected region of one class, is lost if none of its pixels is left. Nothing is lost of images that are
not shrunk, nor where `image.fit = "tile"` keeps the scale.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexunet.core.config.data import ImageConfig
from flexunet.core.config.whole import Config
from flexunet.core.features import BACKGROUND_ID
from flexunet.core.fit import at_model_size, keeps_every_pixel
from flexunet.core.regions import connected_regions
from flexunet.dataset.masks import count_pixels

WARNED_SHARE: Final = 0.05
REFUSED_SHARE: Final = 0.5
_LARGEST_SIDE: Final = 8192


class Losses(NamedTuple):
    """Of one image or of many.

    Attributes:
      regions: of each class at the images' own size, int64 `[C]`; none of the background.
      lost: of these, regions without a pixel at the model's size.
      pixels: labelled pixels of each class at the model's size, int64 `[C]`.
    """

    regions: NDArray[np.int64]
    lost: NDArray[np.int64]
    pixels: NDArray[np.int64]


def losses_of(class_ids: NDArray[np.uint8], settings: ImageConfig, num_classes: int) -> Losses:
    """Counts of one mask, uint8 `[h, w]`."""
    height, width = class_ids.shape
    shrunk = not keeps_every_pixel(height, width, settings)
    left = at_model_size(class_ids, settings) if shrunk else class_ids
    pixels = count_pixels(left, num_classes)
    regions, lost = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    for class_id in np.flatnonzero(count_pixels(class_ids, num_classes)):
        if class_id != BACKGROUND_ID:
            found = connected_regions(class_ids == class_id)
            regions[class_id] = found.count
            if shrunk:
                seen = np.bincount(at_model_size(found.labels, settings).ravel(), minlength=found.count + 1)[1:]
                lost[class_id] = np.count_nonzero(seen == 0)
    return Losses(regions, lost, pixels)


def added(losses: Sequence[Losses], num_classes: int) -> Losses:
    """The sum over images."""
    nothing = np.zeros(num_classes, np.int64)
    return Losses(
        sum((one.regions for one in losses), nothing),
        sum((one.lost for one in losses), nothing),
        sum((one.pixels for one in losses), nothing),
    )


def loss_words(splits: Mapping[str, Losses], class_names: Sequence[str], repair: str) -> tuple[list[str], list[str]]:
    """What is to be warned of and what is to be refused, a sentence for each class.

    Refused is the loss of half of a class's regions, or of all of a split. `repair` names sizes that keep them.
    """
    warned, refused = [], []
    total = added([*splits.values()], len(class_names))
    for class_id, name in enumerate(class_names):
        counts = {s: (int(of.lost[class_id]), int(of.regions[class_id])) for s, of in splits.items()}
        lost, regions = int(total.lost[class_id]), int(total.regions[class_id])
        if not any(_share(*pair) >= WARNED_SHARE for pair in (*counts.values(), (lost, regions))):
            continue
        listed = ", ".join(f"{split} {gone:,} of {there:,}" for split, (gone, there) in counts.items() if there)
        words = f"{lost:,} of {regions:,} regions of {name} have no pixel left at the model's size ({listed}): {repair}"
        is_gone = _share(lost, regions) >= REFUSED_SHARE or any(_share(*pair) == 1 for pair in counts.values())
        (refused if is_gone else warned).append(words)
    return warned, refused


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def sizes_that_keep(sizes: Sequence[tuple[int, int]], config: Config) -> str:
    """What to set so that images of these heights and widths lose nothing."""
    step = config.model.size_divisor
    height, width = (-(-max(sides) // step) * step for sides in zip(*sizes, strict=True))
    tile = 'image.fit = "tile" keeps them'
    return tile if max(height, width) > _LARGEST_SIDE else f"{tile}, or image.height = {height}, image.width = {width}"
