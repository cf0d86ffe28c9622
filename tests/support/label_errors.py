"""Masks as people get them wrong: shifted, a region forgotten, two classes exchanged."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

Spoil = Callable[[np.ndarray, np.random.Generator], np.ndarray]
# A region that a person would miss seeing again is no planted error.
SMALLEST = 30


def shifted(class_ids: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """By 5 pixels in one of four directions."""
    step = np.roll([5 * generator.choice([-1, 1]), 0], generator.integers(2))
    return ndimage.shift(class_ids, step, order=0, cval=0)


def without_a_region(class_ids: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    labels, areas = _regions(class_ids)
    dropped = generator.choice(np.flatnonzero(areas >= SMALLEST) + 1)
    return np.where(labels == dropped, 0, class_ids).astype(np.uint8)


def swapped(class_ids: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One class that is there with another."""
    first = generator.choice(np.unique(class_ids[class_ids > 0]))
    second = generator.choice([class_id for class_id in (1, 2, 3) if class_id != first])
    exchange = np.arange(256, dtype=np.uint8)
    exchange[[first, second]] = second, first
    return exchange[class_ids]


SPOILS: tuple[Spoil, ...] = (shifted, without_a_region, swapped)


def can_be_spoilt(class_ids: np.ndarray) -> bool:
    return bool((_regions(class_ids)[1] >= SMALLEST).any())


def _regions(class_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels int32 `[h, w]`, and the pixels of each region."""
    labels, _ = ndimage.label(class_ids > 0, np.ones((3, 3)))
    return labels, np.bincount(labels.ravel())[1:]
