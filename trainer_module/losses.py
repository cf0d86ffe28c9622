"""Losses over class ids uint8 `[N, H, W]` and probabilities float32 `[N, H, W, C]`; pixels with IGNORE_ID do not count.

Each gives one value per image, float32 `[N]`.
"""

from collections.abc import Callable
from typing import Final

import tensorflow as tf

from pipeline.features import IGNORE_ID

# Keras clips probabilities at its epsilon, 1e-7, before the logarithm; so do we, so that the seed's numbers compare.
_EPSILON: Final = 1e-7


def _one_hot(class_ids: tf.Tensor, num_classes: int) -> tf.Tensor:
    """float32 `[N, H, W, C]`; an ignored pixel is all zeros, since 255 is out of range."""
    return tf.one_hot(tf.cast(class_ids, tf.int32), num_classes)


def cross_entropy(class_ids: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """Mean categorical cross-entropy over the labelled pixels of each image."""
    truth = _one_hot(class_ids, probabilities.shape[-1])
    true_probability = tf.reduce_sum(truth * probabilities, axis=-1)
    labelled = tf.cast(tf.not_equal(tf.cast(class_ids, tf.int32), IGNORE_ID), tf.float32)
    negative_log = -tf.math.log(tf.clip_by_value(true_probability, _EPSILON, 1.0))
    return tf.math.divide_no_nan(
        tf.reduce_sum(negative_log * labelled, axis=[1, 2]), tf.reduce_sum(labelled, axis=[1, 2])
    )


def foreground_dice_loss(class_ids: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """1 - soft Dice, mean of the defect classes, pooled over the batch; Milletari et al. 2016, arXiv:1606.04797.

    Pooled, since most images hold only some of the classes, and Dice of a class that is absent says nothing.
    """
    truth = _one_hot(class_ids, probabilities.shape[-1])
    labelled = tf.reduce_sum(truth, axis=-1, keepdims=True)
    overlap = tf.reduce_sum(truth * probabilities, axis=[0, 1, 2])
    total = tf.reduce_sum((truth + probabilities) * labelled, axis=[0, 1, 2])
    loss = 1 - tf.reduce_mean((2 * overlap[1:] + 1) / (total[1:] + 1))
    return tf.fill(tf.shape(class_ids)[:1], loss)


def cross_entropy_dice(class_ids: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """Cross-entropy for calibration plus foreground Dice for rare classes; Isensee et al. 2021, nnU-Net."""
    return cross_entropy(class_ids, probabilities) + foreground_dice_loss(class_ids, probabilities)


LOSSES: Final[dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]]] = {
    "cross_entropy": cross_entropy,
    "cross_entropy_dice": cross_entropy_dice,
}
