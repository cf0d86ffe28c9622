"""Where an image lies in what the model sees, by `image.fit`: on the way there and on the way back."""

import tensorflow as tf

from flexunet.core.config.data import ImageConfig


def inner_size(size: tf.Tensor, settings: ImageConfig) -> tf.Tensor:
    """The part of the model's input that the resized image fills, int32 `[2]`."""
    outer = tf.constant([settings.height, settings.width])
    if settings.fit == "stretch":
        return outer
    scale = tf.reduce_min(tf.cast(outer, tf.float64) / tf.cast(size, tf.float64))
    inner = tf.cast(tf.round(tf.cast(size, tf.float64) * scale), tf.int32)
    return tf.clip_by_value(inner, 1, outer)


def tile_strides(settings: ImageConfig) -> tuple[int, int]:
    """Rows and columns from a tile to the next, in pixels of the image."""
    return settings.height - settings.tile_overlap, settings.width - settings.tile_overlap


def tile_grid(size: tf.Tensor, settings: ImageConfig) -> tf.Tensor:
    """Rows and columns of tiles that cover `size`, int32 `[2]`."""
    strides = tf.constant(tile_strides(settings))
    return tf.maximum(1, -(-(size - settings.tile_overlap) // strides))
