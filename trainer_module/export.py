"""The SavedModel: signatures from encoded bytes to masks and to counts, through the same decoding as training.

The module tracks the TensorFlow variables inside Keras' own. Saving the Keras model itself, or a module that only holds
it, gives an export that Python loads and TF Serving's session loader cannot run ("Could not find variable"); a module
that tracks both writes every weight twice.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from flexunet.core import features
from flexunet.core.config.train import TrainerConfig
from flexunet.core.features import IGNORE_ID
from flexunet.core.files import write_json
from flexunet.serving.limits import BATCH_ROWS
from trainer_module.batching import in_batches, in_chunks, map_small_rows
from trainer_module.losses import log_loss
from trainer_module.metrics import count_matrix, counts_and_calibration
from trainer_module.operating_point import score_levels
from trainer_module.signatures import Decision, ServingSignatures, check_graph, decision_of, id_png, point_outputs
from trainer_module.symmetries import mean_over_symmetries
from trainer_module.warmup import write_warmup
from transform_module import images, unfit
from transform_module.graphs import as_written, traced_once
from transform_module.preprocessing import Row, decode_pair

if TYPE_CHECKING:
    from flexunet.core.results.operating import OperatingPoint
    from flexunet.core.results.training import TrainingFacts

# Of `_measure`: counts, counts at the model's size, probability sums, calibration, and two masks.
_MEASURED = (tf.float64, tf.float64, tf.float64, tf.float64, tf.string, tf.string)
# Pixels of an image; measuring takes some hundred bytes for each.
_MEASURED_TWO_AT_ONCE = 1_000_000


def exported_weights(directory: str) -> list[np.ndarray]:
    """The values of an export's variables, in the order of `model.weights`."""
    return [variable.numpy() for variable in tf.saved_model.load(directory).exported_variables]


class SegmentationModule(tf.Module):
    """What is exported: the model's variables and the signatures over them."""

    def __init__(self, model: keras.Model, config: TrainerConfig, decision: Decision | None = None) -> None:
        super().__init__(name="flexunet")
        self._config, self._decision = config, decision
        # Nothing that is tracked: see above.
        self._call, self._answer = _optimized(model, config), tf.TensorShape(model.output_shape)
        self._thresholds = decision.thresholds if decision else None
        self.exported_variables = [variable.value for variable in model.weights]
        # An image may be cut into a thousand tiles.
        self._images_at_once = 1 if config.image.fit == "tile" else BATCH_ROWS

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=features.INPUT_EXAMPLES)])
    @as_written
    def evaluate(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Serialized records, string `[N]` -> for each image, at its own size: counts float64 `[N, C, C]` (rows truth),
        probability_sums float64 `[N, 3]` (labelled pixels, sum of the true class's probability, sum of cross-entropy),
        calibration float64 `[N, bins, 3]`, the masks of truth and prediction as PNG of class ids, image id and group,
        string `[N]`; and model_size_counts float64 `[N, C, C]`, the counts before the way back to the image's own size.

        Masks are a few KB as PNG and leave for connected regions, which TensorFlow has no operation for: a loop of
        max-pooling takes as many steps as the longest defect has pixels. With an operating point the prediction is
        that of its thresholds, and another PNG tells what other thresholds would predict.
        """
        records = self._config.records
        measured = _MEASURED if self._thresholds is None else (*_MEASURED, tf.string)
        keys = [records.image, records.mask, records.id, *([records.group] if records.group else [])]
        rows = tf.io.parse_example(examples, {key: tf.io.FixedLenFeature([], tf.string) for key in keys})

        def predict(columns: Row) -> tuple[tf.Tensor, ...]:
            spec = (*self._tiles_spec(), tf.RaggedTensorSpec([None, None], tf.uint8, ragged_rank=1))
            small = tf.reduce_max(columns.headers.height * columns.headers.width) <= _MEASURED_TWO_AT_ONCE
            tiles, sizes, class_ids = map_small_rows(traced_once(self._decode_labelled), columns, spec, small)
            rows = (self._probabilities(tiles), sizes, class_ids)
            return map_small_rows(traced_once(self._measure), rows, measured, small)

        headers = images.read_rows(rows[records.image], self._config.image)
        columns = Row(rows[records.image], rows[records.mask], rows[records.id], headers)
        parts = in_chunks(predict, columns, measured, self._images_at_once)
        counts, model_size, sums, bins, truth, predicted, *scored = parts
        return {
            features.OUTPUT_COUNTS: counts,
            features.OUTPUT_MODEL_SIZE_COUNTS: model_size,
            features.OUTPUT_PROBABILITY_SUMS: sums,
            features.OUTPUT_CALIBRATION: bins,
            features.OUTPUT_TRUTH_PNG: truth,
            features.OUTPUT_PREDICTED_PNG: predicted,
            **({features.OUTPUT_SCORED_PNG: scored[0]} if scored else {}),
            **point_outputs(self._decision, tf.size(truth)),
            features.OUTPUT_IMAGE_ID: rows[records.id],
            features.OUTPUT_GROUP: rows[records.group or records.id],
        }

    def _tiles_spec(self) -> tuple[tf.RaggedTensorSpec, tf.TensorSpec]:
        shape = [None, self._config.image.height, self._config.image.width, 3]
        return tf.RaggedTensorSpec(shape, tf.uint8, ragged_rank=0), tf.TensorSpec([2], tf.int32)

    def _fit(self, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return images.fit_image(image, self._config.image), tf.shape(image)[:2]

    def _decode_labelled(self, row: Row) -> tuple[tf.Tensor, ...]:
        image, class_ids = decode_pair(row, self._config)
        return (*self._fit(image), tf.RaggedTensor.from_tensor(class_ids))

    def _probabilities(self, tiles: tf.RaggedTensor) -> tf.RaggedTensor:
        """uint8 `[N, (tiles), height, width, 3]` -> float32 `[N, (tiles), height, width, C]`."""
        flat = in_batches(self.predict_tiles, tiles.values, self._config.image)
        return tiles.with_values(tf.ensure_shape(flat, self._answer))

    def predict_tiles(self, tiles: tf.Tensor) -> tf.Tensor:
        """uint8 `[N, height, width, 3]` -> class probabilities float32 `[N, height, width, C]`."""
        return mean_over_symmetries(self._call, tiles, self._config.serving.symmetries)

    def _own_size(self, row: tuple[tf.Tensor, ...]) -> tf.Tensor:
        return unfit.unfit_probabilities(row[0], row[1], self._config.image)

    def _measure(self, row: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        probabilities, class_ids = self._own_size(row), row[2].to_tensor()
        top, confidence = unfit.most_probable(probabilities)
        counts, calibration = counts_and_calibration(class_ids, top, confidence, len(self._config.classes))
        predicted, counts = top, tf.cast(counts, tf.float64)
        if self._thresholds is not None:
            predicted = unfit.class_ids_of(probabilities, self._thresholds)
            counts = self._counts(class_ids, predicted)
        numbers = (
            counts,
            self._model_size_counts(row, class_ids, counts),
            self._probability_sums(class_ids, probabilities, tf.reduce_sum(counts)),
            calibration,
        )
        # A model that gives NaN has a top class all the same: its counts must not look like an answer.
        finite = tf.math.is_finite(tf.reduce_sum(probabilities))
        undefined = tf.constant(float("nan"), tf.float64)
        return (
            *(tf.where(finite, number, undefined) for number in numbers),
            id_png(class_ids),
            id_png(predicted),
            *([] if self._thresholds is None else [tf.io.encode_png(score_levels(probabilities))]),
        )

    def _model_size_counts(self, row: tuple[tf.Tensor, ...], class_ids: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
        """Of an image that has the model's size these are its `counts`."""
        settings = self._config.image

        def counted() -> tf.Tensor:
            predicted = unfit.class_ids_of(row[0], self._thresholds)
            return self._counts(images.fit_class_ids(class_ids, settings), predicted)

        if settings.fit == "tile":
            return counted()
        return tf.cond(tf.reduce_all(row[1] == [settings.height, settings.width]), lambda: counts, counted)

    def _counts(self, class_ids: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
        return tf.cast(count_matrix(class_ids, predicted, len(self._config.classes)), tf.float64)

    def _probability_sums(self, class_ids: tf.Tensor, probabilities: tf.Tensor, labelled: tf.Tensor) -> tf.Tensor:
        truth, num_classes = tf.reshape(tf.cast(class_ids, tf.int32), [-1]), len(self._config.classes)
        column = tf.cast(tf.minimum(truth, num_classes - 1), tf.int64)
        # In a third of the time of tf.one_hot.
        place = tf.range(tf.size(column, tf.int64)) * num_classes + column
        of_truth = tf.gather(tf.reshape(probabilities, [-1]), place)
        is_labelled = tf.cast(tf.minimum(IGNORE_ID - truth, 1), tf.float32)
        sums = [tf.cast(tf.reduce_sum(values * is_labelled), tf.float64) for values in (of_truth, log_loss(of_truth))]
        return tf.stack([labelled, *sums])


def _optimized(model: keras.Model, config: TrainerConfig) -> Callable[[tf.Tensor], tf.Tensor]:
    """The model as a function that is called and never put in the caller's place: so TensorFlow optimizes it by itself,
    once for all signatures. In the body of a batch function it does not: the results of a convolution would be read and
    written again for its ReLU.
    """
    shape = [None, config.image.height, config.image.width, 3]
    function = tf.function(
        as_written(functools.partial(model, training=False)),
        input_signature=[tf.TensorSpec(shape, tf.uint8)],
        experimental_attributes={"_noinline": True},
    )
    # A module tracks functions, too.
    return functools.partial(function)


def export_model(
    model: keras.Model,
    config: TrainerConfig,
    training: "TrainingFacts",
    directory: Path,
    operating_point: "OperatingPoint | None" = None,
) -> None:
    """Writes the SavedModel and, in `assets.extra`, the configuration, facts of the training and warm-up requests.

    Args:
      model: float32, as the export will run it.
      config: what it was trained with.
      training: facts of the training.
      directory: of the SavedModel.
      operating_point: its thresholds go into the graph; None: every pixel has its most probable class.

    Raises:
      ValueError: the graph holds an op that TF Serving cannot run, or that touches files.
    """
    decision = decision_of(operating_point, config.classes) if operating_point else None
    module = SegmentationModule(model, config, decision)
    served = ServingSignatures(module.predict_tiles, config, decision)
    signatures = {**served.by_name(), features.SIGNATURE_EVALUATE: module.evaluate}
    tf.saved_model.save(module, str(directory), signatures=signatures)
    check_graph(saved_model_pb2.SavedModel.FromString((directory / features.EXPORTED_GRAPH).read_bytes()))
    extra = directory / features.ASSETS_EXTRA
    extra.mkdir(exist_ok=True)
    (extra / features.EXPORTED_CONFIG).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    write_json(extra / features.EXPORTED_TRAINING, training)
    if operating_point:
        write_json(extra / features.EXPORTED_OPERATING_POINT, operating_point)
    write_warmup(directory, config)
