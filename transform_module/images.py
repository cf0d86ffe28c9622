"""Decoding an image and bringing it to the model's size, and scores back to the image's own size.

`preprocessing_fn` and every serving signature call these functions, so that there is no training/serving skew.
An image becomes `[tiles, height, width, ...]`: one tile for `fit = stretch | pad`, several for `fit = tile`.
"""

import math
from typing import Any

import tensorflow as tf

from pipeline.config import ImageConfig
from pipeline.features import IGNORE_ID


def decode_image(encoded: tf.Tensor) -> tf.Tensor:
    """PNG, JPEG, BMP, GIF or WebP bytes, scalar -> RGB uint8 `[h, w, 3]`; grey, alpha and 16 bit are converted."""
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return tf.ensure_shape(image, [None, None, 3])


def fit_image(image: tf.Tensor, settings: ImageConfig) -> tf.Tensor:
    """uint8 `[h, w, 3]` -> uint8 `[tiles, height, width, 3]`; bilinear, antialiased where it shrinks."""
    if settings.fit == "tile":
        return _cut(image, settings, padding=0)
    resized = tf.image.resize(image, _inner_size(_size(image), settings), antialias=True)
    rounded = tf.saturate_cast(tf.round(resized), tf.uint8)
    return _pad_to(rounded, settings.height, settings.width, padding=0)[tf.newaxis]


def fit_class_ids(class_ids: tf.Tensor, settings: ImageConfig) -> tf.Tensor:
    """uint8 `[h, w]` -> uint8 `[tiles, height, width]`; nearest neighbour only, padding is IGNORE_ID."""
    ids = class_ids[..., tf.newaxis]
    if settings.fit == "tile":
        return _cut(ids, settings, padding=IGNORE_ID)[..., 0]
    resized = tf.image.resize(ids, _inner_size(_size(ids), settings), method="nearest")
    return _pad_to(resized, settings.height, settings.width, padding=IGNORE_ID)[tf.newaxis, ..., 0]


def unfit_probabilities(probabilities: tf.Tensor, size: tf.Tensor, settings: ImageConfig) -> tf.Tensor:
    """float32 `[tiles, height, width, C]` -> float32 `[h, w, C]` at the image's own `size`, int32 `[2]`."""
    if settings.fit == "tile":
        return _join(probabilities, size, settings)
    inner = _inner_size(size, settings)
    return tf.image.resize(probabilities[0, : inner[0], : inner[1]], size)


def _size(image: tf.Tensor) -> tf.Tensor:
    return tf.shape(image)[:2]


def _inner_size(size: tf.Tensor, settings: ImageConfig) -> tf.Tensor:
    """The part of the model's input that the resized image fills, int32 `[2]`."""
    outer = tf.constant([settings.height, settings.width])
    if settings.fit == "stretch":
        return outer
    scale = tf.reduce_min(tf.cast(outer, tf.float64) / tf.cast(size, tf.float64))
    inner = tf.cast(tf.round(tf.cast(size, tf.float64) * scale), tf.int32)
    return tf.clip_by_value(inner, 1, outer)


def _pad_to(image: tf.Tensor, height: Any, width: Any, padding: int) -> tf.Tensor:
    """Pads below and to the right."""
    missing_rows, missing_columns = height - tf.shape(image)[0], width - tf.shape(image)[1]
    return tf.pad(image, [[0, missing_rows], [0, missing_columns], [0, 0]], constant_values=padding)


def _strides(settings: ImageConfig) -> tuple[int, int]:
    return settings.height - settings.tile_overlap, settings.width - settings.tile_overlap


def _grid(size: tf.Tensor, settings: ImageConfig) -> tf.Tensor:
    """Rows and columns of tiles that cover `size`, int32 `[2]`."""
    strides = tf.constant(_strides(settings))
    return tf.maximum(1, -(-(size - settings.tile_overlap) // strides))


def _cut(image: tf.Tensor, settings: ImageConfig, padding: int) -> tf.Tensor:
    """`[h, w, channels]` -> `[tiles, height, width, channels]`, row by row."""
    channels = image.shape[-1]
    covered = _grid(_size(image), settings) * tf.constant(_strides(settings)) + settings.tile_overlap
    patches = tf.image.extract_patches(
        _pad_to(image, covered[0], covered[1], padding)[tf.newaxis],
        sizes=[1, settings.height, settings.width, 1],
        strides=[1, *_strides(settings), 1],
        rates=[1, 1, 1, 1],
        padding="VALID",
    )
    return tf.reshape(patches, [-1, settings.height, settings.width, channels])


def _join(tiles: tf.Tensor, size: tf.Tensor, settings: ImageConfig) -> tf.Tensor:
    """Overlap-add of `[tiles, height, width, C]`, each pixel weighted by its distance from the tile's border."""
    strides, grid = tf.constant(_strides(settings)), _grid(size, settings)
    covered = grid * strides + settings.tile_overlap
    origins = tf.stack(tf.meshgrid(tf.range(grid[0]), tf.range(grid[1]), indexing="ij"), axis=-1)
    origins = tf.reshape(origins, [-1, 1, 1, 2]) * strides
    offsets = tf.stack(tf.meshgrid(tf.range(settings.height), tf.range(settings.width), indexing="ij"), axis=-1)
    indices = origins + offsets
    weights = tf.broadcast_to(_window(settings), tf.shape(tiles)[:-1])[..., tf.newaxis]
    canvas = tf.concat([covered, [tf.shape(tiles)[-1] + 1]], axis=0)
    summed = tf.scatter_nd(indices, tf.concat([tiles * weights, weights], axis=-1), canvas)
    return (summed[..., :-1] / summed[..., -1:])[: size[0], : size[1]]


def _window(settings: ImageConfig) -> tf.Tensor:
    """Weights float32 `[height, width]`: a pyramid that falls to its least, never to 0, at the border."""

    def ramp(length: int) -> tf.Tensor:
        distance = [min(i + 1, length - i) for i in range(length)]
        return tf.constant(distance, tf.float32) / math.ceil(length / 2)

    return ramp(settings.height)[:, tf.newaxis] * ramp(settings.width)[tf.newaxis, :]
