"""How likely a mask is right, by the probabilities of a model that was not trained on it.

Lad and Mueller, Estimating label quality and errors in semantic segmentation data via any model, 2023,
arXiv 2307.05080: of the scores that they compare the soft minimum ranks wrong masks best.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexunet.core.features import IGNORE_ID

# Of the paper; lower goes towards the worst pixel, higher towards the mean of all.
_TEMPERATURE: Final = 0.1


class Disagreement(NamedTuple):
    """The largest one between a mask and a prediction: class ids of both, and in how many pixels."""

    labelled: int
    predicted: int
    pixels: int


def label_quality(of_label: NDArray[np.floating]) -> float:
    """The soft minimum of per-pixel label quality: the lower, the likelier is the mask wrong.

    Args:
      of_label: for each labelled pixel the predicted probability of the class that the mask gives it, `[N]`, N > 0.

    Returns:
      Their mean, weighted by exp((1 - probability) / 0.1), between 0 and 1.
    """
    quality = of_label.astype(np.float64)
    # Shifted, so that no weight is above 1.
    weights = np.exp((quality.min() - quality) / _TEMPERATURE)
    return float(quality @ weights / weights.sum())


def largest_disagreement(label: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> Disagreement | None:
    """Of class ids uint8 `[h, w]` both, on labelled pixels; None where there is none."""
    differ = (label != predicted) & (label != IGNORE_ID)
    pairs, counts = np.unique(np.stack([label[differ], predicted[differ]]), axis=1, return_counts=True)
    if not counts.size:
        return None
    most = int(counts.argmax())
    return Disagreement(int(pairs[0, most]), int(pairs[1, most]), int(counts[most]))
