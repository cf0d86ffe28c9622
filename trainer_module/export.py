"""The SavedModel: signatures from encoded bytes to masks and to counts, through the same decoding as training.

The module tracks the TensorFlow variables inside Keras' own. Saving the Keras model itself, or a module that only holds
it, gives an export that Python loads and TF Serving's session loader cannot run ("Could not find variable").
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline import features
from pipeline.config import TrainerConfig
from trainer_module.losses import cross_entropy
from trainer_module.metrics import calibration_bins, count_matrix
from transform_module import images
from transform_module.preprocessing import decode_pair

# Images, or tiles, that go through the model together; the Evaluator hands over up to 1,000 records at a time.
_CHUNK = 16
# Of `_measure`: counts, counts at the model's size, probability sums, calibration, and two masks.
_MEASURED = (tf.float64, tf.float64, tf.float64, tf.float64, tf.string, tf.string)


def exported_weights(directory: str) -> list[np.ndarray]:
    """The values of an export's variables, in the order of `model.variables`."""
    return [variable.numpy() for variable in tf.saved_model.load(directory).exported_variables]


class SegmentationModule(tf.Module):
    """What is exported: the model's variables and the signatures over them."""

    def __init__(self, model: keras.Model, config: TrainerConfig) -> None:
        super().__init__(name="flexunet")
        self._model, self._config = model, config
        self.exported_variables = [variable.value for variable in model.variables]
        # An image may be cut into a thousand tiles.
        self._images_at_once = 1 if config.image.fit == "tile" else _CHUNK

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=features.INPUT_IMAGE_BYTES)])
    def serve(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Encoded images, string `[N]` -> mask PNG of class ids at each image's own size, string `[N]`, and the share
        of pixels of each class, float32 `[N, C]`.
        """

        def predict(encoded: tf.Tensor) -> tuple[tf.Tensor, ...]:
            tiles, sizes = _map(lambda one: self._fit(images.decode_image(one)), encoded, self._tiles_spec())
            return _map(self._mask, (self._probabilities(tiles), sizes), (tf.string, tf.float32))

        masks, fractions = _in_chunks(predict, image_bytes, (tf.string, tf.float32), self._images_at_once)
        return {features.OUTPUT_MASK_PNG: masks, features.OUTPUT_CLASS_FRACTIONS: fractions}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=features.INPUT_EXAMPLES)])
    def evaluate(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Serialized records, string `[N]` -> for each image, at its own size: counts float64 `[N, C, C]` (rows truth),
        probability_sums float64 `[N, 3]` (labelled pixels, sum of the true class's probability, sum of cross-entropy),
        calibration float64 `[N, bins, 3]`, the masks of truth and prediction as PNG of class ids, image id and group,
        string `[N]`; and model_size_counts float64 `[N, C, C]`, the counts before the way back to the image's own size.

        Masks are a few KB as PNG and leave for connected regions, which TensorFlow has no operation for: a loop of
        max-pooling takes as many steps as the longest defect has pixels.
        """
        records = self._config.records
        keys = [records.image, records.mask, records.id, *([records.group] if records.group else [])]
        rows = tf.io.parse_example(examples, {key: tf.io.FixedLenFeature([], tf.string) for key in keys})

        def predict(columns: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
            spec = (*self._tiles_spec(), tf.RaggedTensorSpec([None, None], tf.uint8, ragged_rank=1))
            tiles, sizes, class_ids = _map(self._decode_labelled, columns, spec)
            return _map(self._measure, (self._probabilities(tiles), sizes, class_ids), _MEASURED)

        columns = (rows[records.image], rows[records.mask], rows[records.id])
        counts, model_size, sums, bins, truth, predicted = _in_chunks(predict, columns, _MEASURED, self._images_at_once)
        return {
            features.OUTPUT_COUNTS: counts,
            features.OUTPUT_MODEL_SIZE_COUNTS: model_size,
            features.OUTPUT_PROBABILITY_SUMS: sums,
            features.OUTPUT_CALIBRATION: bins,
            features.OUTPUT_TRUTH_PNG: truth,
            features.OUTPUT_PREDICTED_PNG: predicted,
            features.OUTPUT_IMAGE_ID: rows[records.id],
            features.OUTPUT_GROUP: rows[records.group or records.id],
        }

    def _tiles_spec(self) -> tuple[Any, Any]:
        shape = [None, self._config.image.height, self._config.image.width, 3]
        return tf.RaggedTensorSpec(shape, tf.uint8, ragged_rank=0), tf.TensorSpec([2], tf.int32)

    def _fit(self, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return images.fit_image(image, self._config.image), tf.shape(image)[:2]

    def _decode_labelled(self, row: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        image, class_ids = decode_pair(row[0], row[1], row[2], self._config)
        return (*self._fit(image), tf.RaggedTensor.from_tensor(class_ids))

    def _probabilities(self, tiles: tf.RaggedTensor) -> tf.RaggedTensor:
        """uint8 `[N, (tiles), height, width, 3]` -> float32 `[N, (tiles), height, width, C]`."""
        [flat] = _in_chunks(self._predict_tiles, tiles.values, (tf.float32,), _CHUNK)
        return tiles.with_values(tf.ensure_shape(flat, self._model.output_shape))

    def _predict_tiles(self, tiles: tf.Tensor) -> tuple[tf.Tensor]:
        return (self._model(tiles, training=False),)

    def _own_size(self, row: tuple[tf.Tensor, ...]) -> tf.Tensor:
        return images.unfit_probabilities(row[0], row[1], self._config.image)

    def _mask(self, row: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tf.Tensor]:
        class_ids = tf.argmax(self._own_size(row), axis=-1, output_type=tf.int32)
        num_classes = len(self._config.classes)
        pixels = tf.cast(tf.math.bincount(tf.reshape(class_ids, [-1]), minlength=num_classes), tf.float32)
        return _id_png(class_ids), pixels[:num_classes] / tf.reduce_sum(pixels)

    def _measure(self, row: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        probabilities, class_ids = self._own_size(row), row[2].to_tensor()
        predicted = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
        counts = self._counts(class_ids, predicted)
        numbers = (
            counts,
            self._counts(images.fit_class_ids(class_ids, self._config.image), tf.argmax(row[0], axis=-1)),
            self._probability_sums(class_ids, probabilities, tf.reduce_sum(counts)),
            calibration_bins(class_ids, probabilities),
        )
        # A model that gives NaN has an argmax all the same: its counts must not look like an answer.
        finite = tf.reduce_all(tf.math.is_finite(probabilities))
        undefined = tf.constant(float("nan"), tf.float64)
        return (*(tf.where(finite, number, undefined) for number in numbers), _id_png(class_ids), _id_png(predicted))

    def _counts(self, class_ids: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
        return tf.cast(count_matrix(class_ids, predicted, len(self._config.classes)), tf.float64)

    def _probability_sums(self, class_ids: tf.Tensor, probabilities: tf.Tensor, labelled: tf.Tensor) -> tf.Tensor:
        truth = tf.one_hot(tf.cast(class_ids, tf.int32), len(self._config.classes))
        log_loss = cross_entropy(class_ids[tf.newaxis], probabilities[tf.newaxis])[0]
        of_truth = tf.cast(tf.reduce_sum(truth * probabilities), tf.float64)
        return tf.stack([labelled, of_truth, tf.cast(log_loss, tf.float64) * labelled])


def _id_png(class_ids: tf.Tensor) -> tf.Tensor:
    return tf.io.encode_png(tf.cast(class_ids, tf.uint8)[..., tf.newaxis])


def _map(function: Callable[..., Any], elements: Any, signature: Any) -> Any:
    # One at a time: what stands at an image's own size can take a gigabyte.
    return tf.map_fn(function, elements, fn_output_signature=signature, parallel_iterations=1)


def _in_chunks(
    function: Callable[..., tuple[tf.Tensor, ...]], elements: Any, dtypes: tuple[tf.DType, ...], size: int
) -> tuple[tf.Tensor, ...]:
    """Applies `function` to slices of at most `size` rows, one after the other, so that memory stays bounded."""
    rows = tf.shape(tf.nest.flatten(elements)[0])[0]
    with tf.control_dependencies([tf.debugging.assert_positive(rows, "the batch is empty, expected at least one row")]):
        chunks = -(-rows // size)

    def body(index: tf.Tensor, arrays: tuple[tf.TensorArray, ...]) -> tuple[tf.Tensor, tuple[tf.TensorArray, ...]]:
        part = tf.nest.map_structure(lambda t: t[index * size : (index + 1) * size], elements)
        results = function(part)
        return index + 1, tuple(array.write(index, r) for array, r in zip(arrays, results, strict=True))

    empty = tuple(tf.TensorArray(dtype, chunks, infer_shape=False) for dtype in dtypes)
    _, filled = tf.while_loop(lambda index, _: index < chunks, body, (tf.constant(0), empty), parallel_iterations=1)
    return tuple(array.concat() for array in filled)


def export_model(model: keras.Model, config: TrainerConfig, training: dict[str, float], directory: Path) -> None:
    """Writes the SavedModel and, in `assets.extra`, the configuration and facts of the training."""
    module = SegmentationModule(model, config)
    signatures = {features.SIGNATURE_SERVING: module.serve, features.SIGNATURE_EVALUATE: module.evaluate}
    tf.saved_model.save(module, str(directory), signatures=signatures)
    extra = directory / features.ASSETS_EXTRA
    extra.mkdir(exist_ok=True)
    (extra / features.EXPORTED_CONFIG).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (extra / features.EXPORTED_TRAINING).write_text(json.dumps(training, indent=2) + "\n", encoding="utf-8")
