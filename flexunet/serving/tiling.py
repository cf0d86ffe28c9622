"""Images larger than the model, or than a message: the client cuts them into overlapping tiles and blends the answers.

A model exported with `image.fit = "tile"` does the same inside its graph; this is for the others, and for images that
no server takes whole. The image keeps its scale.
"""

import time
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flexunet.core import features
from flexunet.core.operating_point import above
from flexunet.core.regions import without_small
from flexunet.core.tiles import blending_window
from flexunet.serving.client import Prediction, fractions_of
from flexunet.serving.transport import Model, ServingError

# Tiles in one request.
_TILES_AT_ONCE: Final = 8
_OF_THE_POINT: Final = (features.OUTPUT_THRESHOLDS, features.OUTPUT_SMALLEST_REGIONS)


def predict_tiled(
    model: Model, rgb: NDArray[np.uint8], tile: tuple[int, int], overlap: int | None = None
) -> Prediction:
    """Masks an image tile by tile; memory is that of one row of tiles, whatever the image's height.

    Args:
      model: its `probabilities` signature is called.
      rgb: uint8 `[h, w, 3]`, of any size; what is smaller than a tile is mirrored at its border.
      tile: the model's height and width.
      overlap: pixels that neighbours share, at least; by default half of the tile's smaller side. Measured on steel
        surfaces with a model that feels a tile's border in its middle: with a quarter, answers within 8 pixels of
        tiles' borders differ from the whole image's 11 times as often as elsewhere, with three eighths 1.4 times, with
        half no more often.

    Raises:
      ValueError: the overlap is negative or more than half a tile.
      ServingError: the model gave no answer, or none that is a number.
    """
    started = time.perf_counter()
    overlap = min(tile) // 2 if overlap is None else overlap
    if not 0 <= 2 * overlap <= min(tile):
        raise ValueError(
            f"an overlap of {overlap} pixels, expected from 0 to half of the tile's side, {min(tile) // 2}"
        )
    class_ids, confidence, num_classes = _decided(model, rgb, tile, overlap)
    return Prediction(
        class_ids=class_ids,
        class_fractions=fractions_of(class_ids, num_classes),
        confidence=float(confidence.mean()),
        error="",
        seconds=time.perf_counter() - started,
    )


def _decided(
    model: Model, rgb: NDArray[np.uint8], tile: tuple[int, int], overlap: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], int]:
    """Class ids uint8 `[h, w]` by the model's operating point, each pixel's confidence, the number of classes."""
    height, width = rgb.shape[:2]
    padded = _at_least(rgb, tile)
    class_ids, num_classes = np.zeros(padded.shape[:2], np.uint8), 0
    confidence = np.zeros(padded.shape[:2], np.float32)
    told: dict[str, NDArray[Any]] = {}
    for top, scores in _blended_bands(model, padded, tile, overlap, told):
        thresholds = told.get(features.OUTPUT_THRESHOLDS)
        ids = scores.argmax(axis=-1) if thresholds is None else above(scores, thresholds.tolist()).astype(np.int64)
        class_ids[top : top + len(scores)] = ids
        confidence[top : top + len(scores)] = np.take_along_axis(scores, ids[..., np.newaxis], axis=-1)[..., 0]
        num_classes = scores.shape[-1]
    class_ids = class_ids[:height, :width]
    if features.OUTPUT_SMALLEST_REGIONS in told:
        class_ids = without_small(class_ids, told[features.OUTPUT_SMALLEST_REGIONS].tolist())
    return class_ids, confidence[:height, :width], num_classes


def _blended_bands(
    model: Model, rgb: NDArray[np.uint8], tile: tuple[int, int], overlap: int, told: dict[str, NDArray[Any]]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """From top to bottom: where a band of finished rows begins, and its probabilities float32 `[rows, w, C]`.

    `told` gets what the model says of its operating point, `[C]` each.
    """
    tops, lefts = (tile_starts(size, side, overlap) for size, side in zip(rgb.shape[:2], tile, strict=True))
    window = blending_window(*tile)[..., np.newaxis]
    carried: NDArray[np.float32] | None = None
    for index, top in enumerate(tops):
        band = _band_of(model, rgb, top, lefts, window, told)
        if carried is not None:
            band[: len(carried)] += carried
        end = tops[index + 1] if index + 1 < len(tops) else top + tile[0]
        done, carried = band[: end - top], band[end - top :]
        yield top, done[..., :-1] / done[..., -1:]


def _band_of(
    model: Model,
    rgb: NDArray[np.uint8],
    top: int,
    lefts: list[int],
    window: NDArray[np.float32],
    told: dict[str, NDArray[Any]],
) -> NDArray[np.float32]:
    """One row of tiles, float32 `[height, w, C + 1]`: weighted probabilities and, last, the weights."""
    height, width = window.shape[:2]
    band: NDArray[np.float32] | None = None
    for first in range(0, len(lefts), _TILES_AT_ONCE):
        part = lefts[first : first + _TILES_AT_ONCE]
        tiles = np.stack([rgb[top : top + height, left : left + width] for left in part])
        answer = model.run(features.SIGNATURE_PROBABILITIES, {features.INPUT_PIXELS: tiles})
        probabilities = answer[features.OUTPUT_PROBABILITIES]
        # argmax over NaN gives a plausible mask.
        if not np.isfinite(probabilities).all():
            raise ServingError("the model gave no number")
        told.update({name: answer[name][0] for name in _OF_THE_POINT if name in answer})
        if band is None:
            band = np.zeros((height, rgb.shape[1], probabilities.shape[-1] + 1), np.float32)
        for left, scores in zip(part, probabilities, strict=True):
            band[:, left : left + width, :-1] += scores * window
            band[:, left : left + width, -1:] += window
    assert band is not None
    return band


def tile_starts(size: int, side: int, overlap: int) -> list[int]:
    """Where tiles begin: evenly spread, the last ends with the image, neighbours share at least `overlap`."""
    count = max(1, -(-(size - overlap) // (side - overlap)))
    return [round(position) for position in np.linspace(0, size - side, count)]


def _at_least(rgb: NDArray[np.uint8], tile: tuple[int, int]) -> NDArray[np.uint8]:
    missing = [max(0, side - size) for size, side in zip(rgb.shape[:2], tile, strict=True)]
    return np.pad(rgb, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")
