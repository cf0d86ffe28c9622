"""Transform's `preprocessing_fn`: records of encoded image and RGB mask -> model-sized pixels and class ids.

TFT's outputs are strings, int64 or float32, so pixels travel as serialized uint8 tensors: a twelfth of int64 varints.
"""

import functools
from typing import TYPE_CHECKING, NamedTuple

import tensorflow as tf

from flexunet.core import features
from flexunet.core.config.data import TransformConfig
from flexunet.core.sources import source_pattern
from transform_module import images, masks
from transform_module.graphs import traced_once
from transform_module.headers import Headers

if TYPE_CHECKING:
    from tensorflow.types.experimental import GenericFunction


def preprocessing_fn(inputs: dict[str, tf.Tensor], custom_config: dict[str, str]) -> dict[str, tf.Tensor]:
    """Raw features, string `[N, 1]` each -> serialized pixels and class ids, string `[N]` each.

    With `image.fit = "tile"` the images' own sizes come too, serialized; with `dataset.sources` their sources, and with
    `dataset.equal_groups` their near-duplicate groups.

    Args:
      inputs: the records' features.
      custom_config: `{"config": TransformConfig as JSON, ...}`; with the key OWN_SIZE class ids at the images' own size
        come too, as PNG.
    """
    text = custom_config["config"]
    config = TransformConfig.model_validate_json(text)
    keys = config.records
    columns = (tf.reshape(inputs[key], [-1]) for key in (keys.image, keys.mask, keys.id))
    outputs = _serializing(text, features.OWN_SIZE in custom_config)(*columns)
    if config.dataset.equal_groups:
        return {**outputs, features.TRANSFORMED_GROUP: tf.reshape(inputs[keys.group], [-1])}
    return outputs


@functools.cache
def _serializing(config_json: str, own_size: bool) -> "GenericFunction":
    """What becomes of images, masks and ids, string `[N]` each.

    TFX calls `preprocessing_fn` half a dozen times to see what it reads and gives.
    """
    config = TransformConfig.model_validate_json(config_json)
    names = [features.TRANSFORMED_IMAGE, features.TRANSFORMED_CLASS_IDS]
    names += [features.TRANSFORMED_SIZE] if config.image.fit == "tile" else []
    names += [features.TRANSFORMED_SOURCE] if config.dataset.sources else []
    names += [features.TRANSFORMED_TRUTH] if own_size else []

    def serialize(row: Row) -> dict[str, tf.Tensor]:
        columns = _serialize_pair(row, config)
        return {name: columns[name] for name in names}

    def serialize_all(image: tf.Tensor, mask: tf.Tensor, image_id: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = Row(image, mask, image_id, images.read_rows(image, config.image))
        return tf.map_fn(serialize, rows, fn_output_signature=dict.fromkeys(names, tf.string))

    return traced_once(serialize_all)


class Row(NamedTuple):
    """Encoded image and mask and the image's id, strings, and what the image's header says; of one or of all."""

    image: tf.Tensor
    mask: tf.Tensor
    image_id: tf.Tensor
    headers: Headers


def _serialize_pair(row: Row, config: TransformConfig) -> dict[str, tf.Tensor]:
    image, class_ids = decode_pair(row, config)
    return {
        features.TRANSFORMED_IMAGE: tf.io.serialize_tensor(images.fit_image(image, config.image)),
        features.TRANSFORMED_CLASS_IDS: tf.io.serialize_tensor(images.fit_class_ids(class_ids, config.image)),
        features.TRANSFORMED_SIZE: tf.io.serialize_tensor(tf.shape(class_ids)),
        features.TRANSFORMED_SOURCE: _source(row.image_id, config),
        features.TRANSFORMED_TRUTH: tf.io.encode_png(class_ids[..., tf.newaxis]),
    }


def _source(image_id: tf.Tensor, config: TransformConfig) -> tf.Tensor:
    """Of `dataset.sources`, string scalar; the first that fits, as `source_of` has it."""
    source = tf.constant("")
    for name in reversed(config.dataset.sources):
        source = tf.where(tf.strings.regex_full_match(image_id, source_pattern(name)), name, source)
    return source


def decode_pair(row: Row, config: TransformConfig) -> tuple[tf.Tensor, tf.Tensor]:
    """Scalars -> upright RGB uint8 `[h, w, 3]` and class ids uint8 `[h, w]`, at the image's own size.

    Raises (when run):
      tf.errors.InvalidArgumentError: the image is refused, sizes differ, or a colour is outside the palette; names the
        image.
    """
    image, problem = _decode_or_refuse(row, config)
    mask_rgb = masks.decode_mask(row.mask)
    same_size = tf.reduce_all(tf.equal(tf.shape(image), tf.shape(mask_rgb)))
    sizes = ["image", row.image_id, "and its mask differ in size:", tf.shape(image), tf.shape(mask_rgb)]
    with tf.control_dependencies([_require(problem, row.image_id), tf.debugging.Assert(same_size, sizes)]):
        return image, masks.class_ids_from_rgb(mask_rgb, config.classes, config.records, row.image_id)


def _decode_or_refuse(row: Row, config: TransformConfig) -> images.Decoded:
    with tf.control_dependencies([_require(row.headers.problem, row.image_id)]):
        encoded = tf.identity(row.image)
    return images.decode_image(encoded, row.headers.kind, row.headers.orientation, config.image)


def _require(problem: tf.Tensor, image_id: tf.Tensor) -> tf.Operation:
    return tf.debugging.Assert(problem == "", ["image", image_id, "is refused:", problem])
