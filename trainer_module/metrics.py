"""Pixel counts and calibration in the graph, and the metric that training watches."""

from typing import Final

import keras
import tensorflow as tf

from flexunet.core import scores
from transform_module.unfit import most_probable

# Of equal width over the top class's probability, as in Guo et al. 2017, arXiv:1706.04599.
CALIBRATION_BINS: Final = 15


def count_matrix(class_ids: tf.Tensor, predicted_ids: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Class ids, integers `[...]` both -> int64 `[C, C]`, rows truth, columns prediction; ignored pixels left out."""
    cells = _rows(class_ids, num_classes) * num_classes + _flat(predicted_ids)
    return tf.reshape(_sums(cells, (num_classes + 1) * num_classes), [-1, num_classes])[:num_classes]


def counts_and_calibration(
    class_ids: tf.Tensor, top: tf.Tensor, confidence: tf.Tensor, num_classes: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """The matrix of `count_matrix` for the most probable classes, and labelled pixels by their probability.

    Both from one count, since an image is counted as slowly as it is resized.

    Args:
      class_ids: integers `[...]`.
      top: the most probable class, integers `[...]`.
      confidence: its probability, float32 `[...]`.
      num_classes: background included.

    Returns:
      int64 `[C, C]`, and float64 `[bins, 3]`: pixels in a bin, the sum of their probability, how many are right.
    """
    confidence = tf.reshape(confidence, [-1])
    position = tf.cast(tf.math.ceil(confidence * CALIBRATION_BINS), tf.int32) - 1
    bins = tf.clip_by_value(position, 0, CALIBRATION_BINS - 1)
    rows, count = _rows(class_ids, num_classes), (num_classes + 1) * CALIBRATION_BINS
    joint = _sums((rows * num_classes + _flat(top)) * CALIBRATION_BINS + bins, count * num_classes)
    joint = tf.reshape(joint, [-1, num_classes, CALIBRATION_BINS])[:num_classes]
    right = tf.reduce_sum(tf.linalg.diag_part(tf.transpose(joint, [2, 0, 1])), axis=1)
    # float64: a float32 sum of ones stops at 2**24.
    probability = _sums(rows * CALIBRATION_BINS + bins, count, tf.cast(confidence, tf.float64))
    probability = tf.reduce_sum(tf.reshape(probability, [-1, CALIBRATION_BINS])[:num_classes], axis=0)
    pixels = tf.reduce_sum(joint, axis=[0, 1])
    calibration = tf.stack([tf.cast(pixels, tf.float64), probability, tf.cast(right, tf.float64)], axis=-1)
    return tf.reduce_sum(joint, axis=2), calibration


def _flat(ids: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tf.cast(ids, tf.int32), [-1])


def _rows(class_ids: tf.Tensor, num_classes: int) -> tf.Tensor:
    """int32 `[N]`; ignored pixels have a row of their own behind the others, which keeps shapes static."""
    return tf.minimum(_flat(class_ids), num_classes)


def _sums(cells: tf.Tensor, size: int, weights: tf.Tensor | None = None) -> tf.Tensor:
    """By cell, int32 `[N]`: the sum of weights, `[size]`; int64, of ones, where there are none.

    Not tf.math.bincount, whose size XLA takes for no compile-time constant; a segment sum takes six times as long.
    """
    values = tf.constant([], tf.int64) if weights is None else weights
    return tf.raw_ops.DenseBincount(input=cells, size=size, weights=values)


class ForegroundDice(keras.metrics.Metric):
    """Mean Dice over the defect classes that the truth shows, from counts pooled over all batches.

    Where it shows all of them that is the headline's. A small `eval` lacks some: there the headline's Dice of 0 for a
    class of which one pixel was predicted would choose the epoch that predicts none of it.
    """

    def __init__(self, num_classes: int, name: str = "foreground_dice") -> None:
        super().__init__(name=name)
        self.num_classes = num_classes
        # float64 holds counts exactly up to 2**53 pixels, float32 only up to 2**24.
        self.counts = self.add_weight(
            shape=(num_classes, num_classes), initializer="zeros", dtype="float64", name="counts"
        )

    def update_state(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: None = None) -> None:
        """Class ids `[N, H, W]`, probabilities `[N, H, W, C]`."""
        counts = count_matrix(y_true, most_probable(y_pred)[0], self.num_classes)
        self.counts.assign_add(tf.cast(counts, tf.float64))

    def result(self) -> tf.Tensor:
        """float scalar; NaN while no defect class was seen."""
        return scores.dice_of_present(keras.ops.cast(self.counts, "float32"), keras.ops)
