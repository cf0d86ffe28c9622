"""Batch normalization of images by one operation, and not by the dozen that Keras writes for it.

Each of these reads and writes the whole batch, forward and backward: with channels in multiples of four, the one takes
an eighth off a training step on two cores (docs/explanation/training.md).
"""

from typing import Any

import keras
import tensorflow as tf


class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' layer over the last of four axes: the same weights, the same values, the same export.

    TensorFlow's fused operation computes only where the batch at hand is measured. Frozen, synchronized between
    replicas or outside training it is Keras' own.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None) -> tf.Tensor:
        """float `[N, height, width, channels]` -> the same in the layer's dtype, computed in float32 as Keras does."""
        if not training or not self.trainable or self.synchronized or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        values, unknown = tf.cast(inputs, tf.float32), tf.zeros([0])
        output, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=values,
            scale=self.gamma,
            offset=self.beta,
            mean=unknown,
            variance=unknown,
            epsilon=self.epsilon,
            is_training=True,
        )
        # It divides by n - 1 for the statistics that are kept, Keras by n.
        count = tf.cast(tf.size(values) // tf.size(mean), tf.float32)
        moving: Any
        for moving, of_batch in ((self.moving_mean, mean), (self.moving_variance, variance * (count - 1) / count)):
            moving.assign(moving * self.momentum + of_batch * (1 - self.momentum))
        return tf.cast(output, self.compute_dtype)
