"""Transform's `preprocessing_fn`: records of encoded image and RGB mask -> model-sized pixels and class ids.

TFT's outputs are strings, int64 or float32, so pixels travel as serialized uint8 tensors: a twelfth of int64 varints.
"""

from typing import Any

import tensorflow as tf

from flexunet.core import features
from flexunet.core.config.data import TransformConfig
from transform_module import images, masks


def preprocessing_fn(inputs: dict[str, tf.Tensor], custom_config: dict[str, Any]) -> dict[str, tf.Tensor]:
    """Raw features, string `[N, 1]` each -> serialized pixels and class ids, string `[N]` each.

    Args:
      inputs: the records' features.
      custom_config: `{"config": TransformConfig as JSON, ...}`.
    """
    config = TransformConfig.model_validate_json(custom_config["config"])
    keys = (config.records.image, config.records.mask, config.records.id)
    pixels, class_ids = tf.map_fn(
        lambda row: _serialize_pair(row[0], row[1], row[2], config),
        tuple(tf.reshape(inputs[key], [-1]) for key in keys),
        fn_output_signature=(tf.string, tf.string),
    )
    return {features.TRANSFORMED_IMAGE: pixels, features.TRANSFORMED_CLASS_IDS: class_ids}


def _serialize_pair(
    encoded_image: tf.Tensor, encoded_mask: tf.Tensor, image_id: tf.Tensor, config: TransformConfig
) -> tuple[tf.Tensor, tf.Tensor]:
    image, class_ids = decode_pair(encoded_image, encoded_mask, image_id, config)
    tiles = images.fit_image(image, config.image)
    tile_ids = images.fit_class_ids(class_ids, config.image)
    return tf.io.serialize_tensor(tiles), tf.io.serialize_tensor(tile_ids)


def decode_pair(
    encoded_image: tf.Tensor, encoded_mask: tf.Tensor, image_id: tf.Tensor, config: TransformConfig
) -> tuple[tf.Tensor, tf.Tensor]:
    """String scalars -> RGB uint8 `[h, w, 3]` and class ids uint8 `[h, w]`, at the image's own size.

    Raises (when run):
      tf.errors.InvalidArgumentError: sizes differ, or a colour is outside the palette; names the image.
    """
    image = images.decode_image(encoded_image)
    mask_rgb = masks.decode_mask(encoded_mask)
    same_size = tf.reduce_all(tf.equal(tf.shape(image), tf.shape(mask_rgb)))
    sizes = ["image", image_id, "and its mask differ in size:", tf.shape(image), tf.shape(mask_rgb)]
    with tf.control_dependencies([tf.debugging.Assert(same_size, sizes)]):
        return image, masks.class_ids_from_rgb(mask_rgb, config.classes, config.records, image_id)
