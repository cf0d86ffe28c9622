"""Images that occur more than once, and how far their masks agree: label noise that no training can mend."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from flexunet.core.config.whole import Config
from flexunet.core.results.dataset import DifferentMasks, Duplicates
from flexunet.dataset.examine import Facts, read_class_ids

# Each is two masks read again; more than that is a list nobody reads.
_MOST_COMPARED = 100


def duplicate_summary(facts: Sequence[Facts], config: Config) -> Duplicates:
    """How many images are exact copies of an earlier one, and the pairs whose masks differ."""
    same_pixels: defaultdict[str, list[Facts]] = defaultdict(list)
    for f in facts:
        same_pixels[f.pixel_digest].append(f)
    copies = [members for members in same_pixels.values() if len(members) > 1]
    suspects = [(members[0], other) for members in copies for other in members[1:] if _masks_differ(members[0], other)]
    compared: list[DifferentMasks] = [
        {"images": [first.pair.id, other.pair.id], "agreement": round(_agreement(first, other, config), 4)}
        for first, other in suspects[:_MOST_COMPARED]
    ]
    return {
        "copies": sum(len(members) - 1 for members in copies),
        "different_masks": sorted(compared, key=lambda pair: (pair["agreement"], pair["images"])),
    }


def _masks_differ(first: Facts, other: Facts) -> bool:
    return first.mask_digest != other.mask_digest


def _agreement(first: Facts, other: Facts, config: Config) -> float:
    masks = [read_class_ids(f.pair, (f.width, f.height), config) for f in (first, other)]
    return float(np.mean(masks[0] == masks[1]))
