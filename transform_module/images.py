"""Decoding an image and bringing it to the model's size, and scores back to the image's own size.

`preprocessing_fn` and every serving signature call these functions, so that there is no training/serving skew.
An image becomes `[tiles, height, width, ...]`: one tile for `fit = stretch | pad`, several for `fit = tile`.
"""

import base64
import functools
from typing import Any, Final

import tensorflow as tf

from flexunet.core.config.data import ImageConfig
from flexunet.core.features import IGNORE_ID
from flexunet.core.tiles import blending_window
from transform_module.headers import Headers, read_headers

# Decoded in the place of an image that is refused; nobody sees it.
_PLACEHOLDER: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mNgYGAAAAAEAAHI6uv5AAAAAElFTkSuQmCC"
)
# Images in decoding at once: of those that are accepted, each may take 150 MB.
_DECODED_AT_ONCE: Final = 2
_ALL_CLASSES_PIXELS: Final = 4_000_000


def decode_image(encoded: tf.Tensor) -> tf.Tensor:
    """PNG, JPEG, BMP, GIF or WebP bytes, scalar -> RGB uint8 `[h, w, 3]`; grey, alpha and 16 bit are converted."""
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return tf.ensure_shape(image, [None, None, 3])


def decode_rows(encoded: tf.Tensor, settings: ImageConfig) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Decodes and fits each image by itself: one that is broken does no harm to the others of its batch.

    Format and size are read from the header before anything is decoded.

    Args:
      encoded: string `[N]`; N is 1 for `fit = tile`, where each image may give another number of tiles.
      settings: sizes, and `max_pixels`.

    Returns:
      Tiles uint8 `[N, tiles, height, width, 3]`, the images' own sizes int32 `[N, 2]`, and why an image was refused,
      string `[N]`: "" if it was not; tiles and size of a refused image are a placeholder's.
    """
    headers = read_headers(encoded, settings.max_pixels)
    problem = _refuse_slivers(headers, settings) if settings.fit == "tile" else headers.problem
    good = problem == ""

    def decode(index: tf.Tensor, one: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        image = decode_image(one)
        return index, fit_image(image, settings), _size(image)

    count = tf.shape(encoded, tf.int64)[0]
    rows = tf.data.Dataset.from_tensor_slices((tf.range(count), tf.where(good, encoded, _PLACEHOLDER)))
    rows = rows.map(decode, num_parallel_calls=_DECODED_AT_ONCE, deterministic=True)
    # The only try/except that a graph has. One for the batch: a data set for each image takes as long as decoding it.
    rows = rows.ignore_errors(log_warning=False).concatenate(_nothing(settings)).take(count)
    found, tiles, sizes = rows.batch(count).get_single_element()
    # Where each image's tiles are among those that could be decoded; negative for the others.
    place = tf.math.unsorted_segment_max(tf.range(tf.size(found)), found, count)
    decoded = place >= 0
    # If one is missing, the last is `_nothing`.
    place = tf.where(decoded, place, tf.size(found) - 1)
    tiles, sizes = tf.gather(tiles, place), tf.gather(sizes, place)
    problem = tf.where(good & tf.logical_not(decoded), "damaged or truncated: it cannot be decoded", problem)
    return tf.ensure_shape(tiles, [None, None, settings.height, settings.width, 3]), sizes, problem


def _refuse_slivers(headers: Headers, settings: ImageConfig) -> tf.Tensor:
    """A row of pixels is padded to a whole row of tiles: 50,000,000x1 would fill 25 GB."""
    covered = tf.maximum(headers.height, settings.height) * tf.maximum(headers.width, settings.width)
    words = f"too long and thin: padded to whole tiles it has more than {settings.max_pixels} pixels (image.max_pixels)"
    return tf.where((headers.problem == "") & (covered > settings.max_pixels), words, headers.problem)


def _nothing(settings: ImageConfig) -> tf.data.Dataset:
    """What stands for images that could not be decoded; of no row, which segments leave out."""
    tile = tf.zeros([1, settings.height, settings.width, 3], tf.uint8)
    return tf.data.Dataset.from_tensors((tf.constant(-1, tf.int64), tile, tf.constant([1, 1])))


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


def class_ids_and_confidence(
    probabilities: tf.Tensor, size: tf.Tensor, settings: ImageConfig
) -> tuple[tf.Tensor, tf.Tensor]:
    """The classes of `unfit_probabilities`, uint8 `[h, w]`, and the mean over the pixels of their probability.

    All classes of 50 million pixels would take a gigabyte: above `_ALL_CLASSES_PIXELS` class follows class.
    """
    if settings.fit == "tile":
        return _choose_of_all(_join(probabilities, size, settings))
    inner = _inner_size(size, settings)
    filled = probabilities[0, : inner[0], : inner[1]]
    return tf.cond(
        tf.reduce_prod(tf.cast(size, tf.int64)) <= _ALL_CLASSES_PIXELS,
        lambda: _choose_of_all(tf.image.resize(filled, size)),
        lambda: _choose_one_by_one(filled, size),
    )


def _choose_of_all(probabilities: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """argmax over `[h, w, C]`, in half the time of tf.argmax over so few classes."""
    by_class = tf.unstack(probabilities, axis=-1)
    best = functools.reduce(tf.maximum, by_class)
    # The classes before the first that is best: of equals the first, as argmax has it.
    class_ids = tf.zeros_like(best, tf.uint8)
    for one in reversed(by_class[:-1]):
        class_ids = tf.cast(one < best, tf.uint8) * (class_ids + 1)
    return class_ids, tf.reduce_mean(best)


def _choose_one_by_one(probabilities: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The result of `_choose_of_all` after resizing to `size`, in 9 bytes a pixel for any number of classes."""
    by_class = tf.transpose(probabilities, [2, 0, 1])[..., tf.newaxis]

    def one(class_id: tf.Tensor) -> tf.Tensor:
        return tf.image.resize(by_class[class_id], size)[..., 0]

    def better(class_id: tf.Tensor, ids: tf.Tensor, best: tf.Tensor) -> tuple[tf.Tensor, ...]:
        this = one(class_id)
        return class_id + 1, tf.where(this > best, tf.cast(class_id, tf.uint8), ids), tf.maximum(this, best)

    start = (tf.constant(1), tf.zeros(size, tf.uint8), one(tf.constant(0)))
    classes = tf.shape(by_class)[0]
    _, class_ids, best = tf.while_loop(lambda i, *_: i < classes, better, start, parallel_iterations=1)
    return class_ids, tf.reduce_mean(best)


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
    weights = tf.broadcast_to(blending_window(settings.height, settings.width), tf.shape(tiles)[:-1])[..., tf.newaxis]
    canvas = tf.concat([covered, [tf.shape(tiles)[-1] + 1]], axis=0)
    summed = tf.scatter_nd(indices, tf.concat([tiles * weights, weights], axis=-1), canvas)
    return (summed[..., :-1] / summed[..., -1:])[: size[0], : size[1]]
