"""Answers as means over symmetries of the input: what a turned image says of itself, turned back."""

from collections.abc import Callable
from typing import Final

import tensorflow as tf

_ROWS, _COLUMNS = 1, 2
# Axes that are mirrored, in the order in which more of them are asked for.
_MIRRORS: Final = ((), (_COLUMNS,), (_ROWS,), (_ROWS, _COLUMNS))


def mean_over_symmetries(predict: Callable[[tf.Tensor], tf.Tensor], pixels: tf.Tensor, count: int) -> tf.Tensor:
    """The mean of `count` answers, 1, 2, 4 or 8; 8 needs height = width.

    Args:
      predict: `[N, height, width, 3]` -> float32 `[N, height, width, C]`.
      pixels: `[N, height, width, 3]`.
      count: 2: mirrored left to right; 4: top to bottom too; 8: these four transposed.
    """
    variants = [(turned, axes) for turned in (False, True) for axes in _MIRRORS][:count]
    total = predict(pixels)
    for turned, axes in variants[1:]:
        # One after the other: side by side they would take the memory of all.
        with tf.control_dependencies([total]):
            total += _undone(predict(_done(pixels, turned, axes)), turned, axes)
    return total / count if count > 1 else total


def _done(images: tf.Tensor, turned: bool, axes: tuple[int, ...]) -> tf.Tensor:
    images = tf.reverse(images, axes) if axes else images
    return tf.transpose(images, [0, 2, 1, 3]) if turned else images


def _undone(images: tf.Tensor, turned: bool, axes: tuple[int, ...]) -> tf.Tensor:
    images = tf.transpose(images, [0, 2, 1, 3]) if turned else images
    return tf.reverse(images, axes) if axes else images
