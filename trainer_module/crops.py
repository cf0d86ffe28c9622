"""Tiles cut anywhere from images that are larger than the model's input, instead of always at the same places.

Only for `image.fit = "tile"`, where a tile has the image's own scale: what is learnt is what is served.
"""

from collections.abc import Callable

import tensorflow as tf

from flexunet.core.config.data import ImageConfig
from transform_module.geometry import tile_grid, tile_strides


def join_tiles(tiles: tf.Tensor, size: tf.Tensor, settings: ImageConfig) -> tf.Tensor:
    """Tiles as Transform cuts them, `[tiles, height, width, ...]` -> the image that they cover.

    Args:
      tiles: row by row.
      size: the image's own, int32 `[2]`.
      settings: how it was cut.

    Returns:
      `[h, w, ...]`, at least a tile in both directions: a smaller image stays padded.
    """
    down, right = tile_strides(settings)
    rows, columns = tf.unstack(tile_grid(size, settings))
    grid = tf.reshape(tiles, [rows, columns, *tiles.shape[1:]])
    whole = _rows(grid[:, :, :down], down, right)
    if settings.tile_overlap:
        whole = tf.concat([whole, _rows(grid[-1:, :, down:], settings.tile_overlap, right)], 0)
    kept = tf.maximum(size, [settings.height, settings.width])
    return whole[: kept[0], : kept[1]]


def _rows(grid: tf.Tensor, height: int, stride: int) -> tf.Tensor:
    """`[rows, columns, height, width, ...]` -> `[rows * height, width of the image, ...]`; rows do not overlap."""
    channels = grid.shape[4:]
    lines = tf.transpose(grid, [0, 2, 1, *range(3, len(grid.shape))])
    count = tf.shape(grid)[0] * height
    body = tf.reshape(lines[:, :, :, :stride], [count, -1, *channels])
    return tf.concat([body, tf.reshape(lines[:, :, -1, stride:], [count, -1, *channels])], 1)


def crops(class_id: int, settings: ImageConfig) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """A function of a whole image uint8 `[h, w, 3]`, its class ids uint8 `[h, w]` and a seed int64 `[2]`.

    It gives tiles uint8 `[tiles, height, width, 3]` and `[tiles, height, width]`: one around a pixel of `class_id`,
    which the image must show, so that the next is of another image; anywhere if that is 0, and then as many as the
    image is cut into otherwise.
    """
    height, width = settings.height, settings.width

    def cut(image: tf.Tensor, class_ids: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        size = tf.shape(class_ids)
        last = size - [height, width]
        count = 1 if class_id else tf.reduce_prod(tile_grid(size, settings))
        seeds = tf.random.split(seed, 2)
        draws = tf.random.stateless_uniform([count, 2], seeds[0])
        if class_id:
            at = _pixels(class_ids, class_id, count, seeds[1])
            corners = tf.clip_by_value(at - tf.cast(draws * [height, width], tf.int32), 0, last)
        else:
            corners = tf.minimum(tf.cast(draws * tf.cast(last + 1, tf.float32), tf.int32), last)

        def one(corner: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            top, left = corner[0], corner[1]
            pixels = image[top : top + height, left : left + width]
            ids = class_ids[top : top + height, left : left + width]
            return tf.ensure_shape(pixels, [height, width, 3]), tf.ensure_shape(ids, [height, width])

        return tf.map_fn(one, corners, fn_output_signature=(tf.uint8, tf.uint8))

    return cut


def _pixels(class_ids: tf.Tensor, class_id: int, count: int, seed: tf.Tensor) -> tf.Tensor:
    """Places of `count` pixels of a class, drawn evenly, int32 `[count, 2]`."""
    places = tf.where(class_ids == class_id)
    drawn = tf.random.stateless_uniform([count], seed, 0, tf.shape(places, tf.int64)[0], tf.int64)
    return tf.cast(tf.gather(places, drawn), tf.int32)
