"""Scores of the model brought back to the image's own size, and the classes there.

Every served signature and the choice of an operating point call these; `preprocessing_fn` does not, so that a change
here transforms nothing again.
"""

import functools
from collections.abc import Sequence
from typing import Final

import tensorflow as tf

from flexunet.core.config.data import ImageConfig
from flexunet.core.features import BACKGROUND_ID
from flexunet.core.tiles import blending_window
from transform_module.geometry import inner_size, tile_grid, tile_strides

_ALL_CLASSES_PIXELS: Final = 4_000_000
# Times which a difference of probabilities is more than 1.
_ANY_DIFFERENCE: Final = 1e30


def unfit_probabilities(probabilities: tf.Tensor, size: tf.Tensor, settings: ImageConfig) -> tf.Tensor:
    """float32 `[tiles, height, width, C]` -> float32 `[h, w, C]` at the image's own `size`, int32 `[2]`."""
    if settings.fit == "tile":
        return _join(probabilities, size, settings)
    inner = inner_size(size, settings)
    return tf.image.resize(probabilities[0, : inner[0], : inner[1]], size)


def class_ids_and_confidence(
    probabilities: tf.Tensor, size: tf.Tensor, settings: ImageConfig, thresholds: Sequence[float] | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """The classes of `unfit_probabilities`, uint8 `[h, w]`, and the mean over the pixels of their probability.

    All classes of 50 million pixels would take a gigabyte: above `_ALL_CLASSES_PIXELS` class follows class.

    Args:
      probabilities: float32 `[tiles, height, width, C]`.
      size: the image's own, int32 `[2]`.
      settings: how it was brought to the model's.
      thresholds: one for each defect class: then a pixel is of the most probable of them if that probability is above
        its threshold. None: of the most probable class.
    """
    if thresholds is None:
        class_ids, best = _choose(probabilities, size, settings)
        return class_ids, tf.reduce_mean(best)
    class_ids, best = _choose(probabilities[..., 1:], size, settings)
    background = unfit_probabilities(probabilities[..., :1], size, settings)[..., 0]
    class_ids = _above(class_ids, best, thresholds)
    return class_ids, tf.reduce_mean(tf.where(class_ids == BACKGROUND_ID, background, best))


def most_probable(probabilities: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """argmax, uint8 `[...]`, and maximum over the classes of `[..., C]`: in a fraction of tf.argmax's time."""
    by_class = tf.unstack(probabilities, axis=-1)
    best = functools.reduce(tf.maximum, by_class)
    # The classes before the first that is best: of equals the first, as argmax has it. What lies below the best is 1,
    # the best 0, by arithmetic: a comparison takes longer and is cut for threads that are busy with other images.
    before = tf.zeros_like(best)
    for one in reversed(by_class[:-1]):
        before = tf.minimum((best - one) * _ANY_DIFFERENCE, 1.0) * (before + 1)
    return tf.cast(before, tf.uint8), best


def class_ids_of(probabilities: tf.Tensor, thresholds: Sequence[float] | None = None) -> tf.Tensor:
    """The same classes, uint8 `[h, w]`, of probabilities that are at the image's own size, float32 `[h, w, C]`."""
    if thresholds is None:
        return most_probable(probabilities)[0]
    return _above(*most_probable(probabilities[..., 1:]), thresholds)


def _above(defect_ids: tf.Tensor, probability: tf.Tensor, thresholds: Sequence[float]) -> tf.Tensor:
    """Class ids, from ids that count the defect classes from 0 on."""
    least = tf.gather(tf.constant(thresholds, tf.float32), tf.cast(defect_ids, tf.int32))
    return tf.where(probability > least, defect_ids + 1, tf.constant(BACKGROUND_ID, tf.uint8))


def _choose(probabilities: tf.Tensor, size: tf.Tensor, settings: ImageConfig) -> tuple[tf.Tensor, tf.Tensor]:
    """The most probable class and its probability, `[h, w]` both."""
    if settings.fit == "tile":
        return most_probable(_join(probabilities, size, settings))
    inner = inner_size(size, settings)
    filled = probabilities[0, : inner[0], : inner[1]]
    return tf.cond(
        tf.reduce_prod(tf.cast(size, tf.int64)) <= _ALL_CLASSES_PIXELS,
        lambda: most_probable(tf.image.resize(filled, size)),
        lambda: _choose_one_by_one(filled, size),
    )


def _choose_one_by_one(probabilities: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The result of `most_probable` after resizing to `size`, in 9 bytes a pixel for any number of classes."""
    by_class = tf.transpose(probabilities, [2, 0, 1])[..., tf.newaxis]

    def one(class_id: tf.Tensor) -> tf.Tensor:
        return tf.image.resize(by_class[class_id], size)[..., 0]

    def better(class_id: tf.Tensor, ids: tf.Tensor, best: tf.Tensor) -> tuple[tf.Tensor, ...]:
        this = one(class_id)
        return class_id + 1, tf.where(this > best, tf.cast(class_id, tf.uint8), ids), tf.maximum(this, best)

    start = (tf.constant(1), tf.zeros(size, tf.uint8), one(tf.constant(0)))
    classes = tf.shape(by_class)[0]
    _, class_ids, best = tf.while_loop(lambda i, *_: i < classes, better, start, parallel_iterations=1)
    return class_ids, best


def _join(tiles: tf.Tensor, size: tf.Tensor, settings: ImageConfig) -> tf.Tensor:
    """Overlap-add of `[tiles, height, width, C]`, each pixel weighted by its distance from the tile's border."""
    strides, grid = tf.constant(tile_strides(settings)), tile_grid(size, settings)
    covered = grid * strides + settings.tile_overlap
    origins = tf.stack(tf.meshgrid(tf.range(grid[0]), tf.range(grid[1]), indexing="ij"), axis=-1)
    origins = tf.reshape(origins, [-1, 1, 1, 2]) * strides
    offsets = tf.stack(tf.meshgrid(tf.range(settings.height), tf.range(settings.width), indexing="ij"), axis=-1)
    indices = origins + offsets
    weights = tf.broadcast_to(blending_window(settings.height, settings.width), tf.shape(tiles)[:-1])[..., tf.newaxis]
    canvas = tf.concat([covered, [tf.shape(tiles)[-1] + 1]], axis=0)
    summed = tf.scatter_nd(indices, tf.concat([tiles * weights, weights], axis=-1), canvas)
    return (summed[..., :-1] / summed[..., -1:])[: size[0], : size[1]]
