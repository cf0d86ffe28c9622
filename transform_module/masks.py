"""RGB masks -> class ids inside a graph, by exact colour match; flexunet/core/palette.py does it on files."""

from collections.abc import Sequence

import tensorflow as tf

from flexunet.core.config.data import RecordsConfig, SegmentationClass
from flexunet.core.features import IGNORE_ID


def decode_mask(encoded: tf.Tensor) -> tf.Tensor:
    """PNG bytes, string scalar -> RGB uint8 `[h, w, 3]`."""
    return tf.ensure_shape(tf.io.decode_png(encoded, channels=3), [None, None, 3])


def class_ids_from_rgb(
    mask_rgb: tf.Tensor, classes: Sequence[SegmentationClass], records: RecordsConfig, image_id: tf.Tensor
) -> tf.Tensor:
    """RGB uint8 `[h, w, 3]` -> class ids uint8 `[h, w]`; the ignore colour becomes IGNORE_ID.

    Raises (when run):
      tf.errors.InvalidArgumentError: a colour outside the palette; names the colour and `image_id`.
    """
    packed = _pack(tf.cast(mask_rgb, tf.int32))
    ids = list(range(len(classes)))
    colors = [c.color for c in classes]
    if records.ignore_color is not None:
        ids.append(IGNORE_ID)
        colors.append(records.ignore_color)
    matches = tf.equal(packed[..., tf.newaxis], _pack(tf.constant(colors, tf.int32)))
    with tf.control_dependencies([_assert_known(mask_rgb, tf.reduce_any(matches, axis=-1), image_id)]):
        return tf.gather(tf.constant(ids, tf.uint8), tf.argmax(matches, axis=-1, output_type=tf.int32))


def _pack(rgb: tf.Tensor) -> tf.Tensor:
    return rgb[..., 0] * 65536 + rgb[..., 1] * 256 + rgb[..., 2]


def _assert_known(mask_rgb: tf.Tensor, known: tf.Tensor, image_id: tf.Tensor) -> tf.Operation:
    unknown = tf.boolean_mask(mask_rgb, tf.logical_not(known))
    message = ["mask of image", image_id, "has a colour outside the palette, RGB", unknown[:1], "pixels:"]
    return tf.debugging.Assert(tf.reduce_all(known), [*message, tf.shape(unknown)[0]])
