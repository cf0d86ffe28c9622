"""Pixel counts and calibration in the graph, and the metric that training watches."""

from typing import Final

import keras
import tensorflow as tf

from flexunet.core import scores
from flexunet.core.features import IGNORE_ID
from transform_module.unfit import most_probable

# Of equal width over the top class's probability, as in Guo et al. 2017, arXiv:1706.04599.
CALIBRATION_BINS: Final = 15


def count_matrix(class_ids: tf.Tensor, predicted_ids: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Class ids, integers `[...]` both -> int64 `[C, C]`, rows truth, columns prediction; ignored pixels left out."""
    truth = tf.reshape(tf.cast(class_ids, tf.int32), [-1])
    predicted = tf.reshape(tf.cast(predicted_ids, tf.int32), [-1])
    # Ignored pixels go to a cell of their own behind the matrix, which keeps shapes static.
    cells = tf.where(truth == IGNORE_ID, num_classes**2, truth * num_classes + predicted)
    # Not tf.math.bincount, whose size XLA takes for no compile-time constant; a segment sum takes six times as long.
    counts = tf.raw_ops.DenseBincount(input=cells, size=num_classes**2 + 1, weights=tf.constant([], tf.int64))
    return tf.reshape(counts[: num_classes**2], [num_classes, num_classes])


def calibration_bins(class_ids: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """Integers `[...]`, float32 `[..., C]` -> float64 `[bins, 3]`: labelled pixels whose top class's probability falls
    into a bin, the sum of that probability, and how many of them were predicted rightly.
    """
    predicted, confidence = most_probable(probabilities)
    position = tf.cast(tf.math.ceil(confidence * CALIBRATION_BINS), tf.int32) - 1
    truth = tf.cast(class_ids, tf.int32)
    bins = tf.where(truth == IGNORE_ID, CALIBRATION_BINS, tf.clip_by_value(position, 0, CALIBRATION_BINS - 1))
    right = tf.where(truth == tf.cast(predicted, tf.int32), bins, CALIBRATION_BINS)
    # float64: a float32 sum of ones stops at 2**24.
    sums = [_sum_by_bin(bins), _sum_by_bin(bins, tf.cast(confidence, tf.float64)), _sum_by_bin(right)]
    return tf.stack(sums, axis=-1)[:CALIBRATION_BINS]


def _sum_by_bin(bins: tf.Tensor, weights: tf.Tensor | None = None) -> tf.Tensor:
    """float64 `[bins + 1]`, of ones where there are no weights; in a fraction of a segment sum's time."""
    flat = tf.constant([], tf.int64) if weights is None else tf.reshape(weights, [-1])
    found = tf.raw_ops.DenseBincount(input=tf.reshape(bins, [-1]), size=CALIBRATION_BINS + 1, weights=flat)
    return tf.cast(found, tf.float64)


class ForegroundDice(keras.metrics.Metric):
    """Mean Dice over the defect classes from counts pooled over all batches."""

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
        return scores.foreground_dice(keras.ops.cast(self.counts, "float32"), keras.ops)
