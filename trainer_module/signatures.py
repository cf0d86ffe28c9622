"""The served signatures: from encoded images, records or pixels to masks. `evaluate` is in trainer_module/export.py.

The graph joins the requests of many callers to batches, and one failing row would fail its batch: so a row never fails,
it says `valid = false` and why. Every output's first dimension is the batch.
"""

import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import tensorflow as tf

from flexunet.core import features
from flexunet.core.config.data import SegmentationClass
from flexunet.core.config.train import TrainerConfig
from flexunet.serving.limits import BATCH_ROWS
from trainer_module.batching import in_batches, in_chunks, in_requests, join_requests, map_rows, map_small_rows
from transform_module import images, unfit
from transform_module.graphs import as_written, traced_once

if TYPE_CHECKING:
    from tensorflow.core.protobuf import saved_model_pb2

    from flexunet.core.results.operating import OperatingPoint

# Masks are mostly flat: level 1 takes a fifth of the default's time for a few percent more bytes.
_PNG_COMPRESSION = 1
# Two images at once where that costs no more than a hundred megabytes.
_PARALLEL_PIXELS = 4_000_000

_ROW_TYPES = (tf.string, tf.float32, tf.float32, tf.string)


class Decision(NamedTuple):
    """An operating point in the order of the defect classes: thresholds, and pixels of the smallest regions."""

    thresholds: list[float]
    smallest_regions: list[int]


def decision_of(point: "OperatingPoint", classes: Sequence[SegmentationClass]) -> Decision:
    """The figures of `operating_point.json` in the order of the classes."""
    names = [segmentation_class.name for segmentation_class in classes[1:]]
    return Decision([point["thresholds"][name] for name in names], [point["smallest_regions"][name] for name in names])


def point_outputs(decision: Decision | None, rows: tf.Tensor) -> dict[str, tf.Tensor]:
    """With an operating point, for each row and class id: the threshold, float32 `[N, C]`, and the pixels of the
    smallest region, int32 `[N, C]`, which the graph does not apply. Nothing without one.
    """
    if decision is None:
        return {}
    thresholds = tf.constant([[0.0, *decision.thresholds]], tf.float32)
    smallest = tf.constant([[1, *decision.smallest_regions]], tf.int32)
    return {
        features.OUTPUT_THRESHOLDS: tf.tile(thresholds, [rows, 1]),
        features.OUTPUT_SMALLEST_REGIONS: tf.tile(smallest, [rows, 1]),
    }


class ServingSignatures:
    """Signatures over `predict`, uint8 `[N, height, width, 3]` -> probabilities float32 `[N, height, width, C]`."""

    def __init__(
        self,
        predict: Callable[[tf.Tensor], tf.Tensor],
        config: TrainerConfig,
        decision: Decision | None = None,
    ) -> None:
        self._predict, self._image, self._records = predict, config.image, config.records
        self._decision = decision
        self._thresholds = decision.thresholds if decision else None
        self._num_classes = len(config.classes)
        self._class_names = [segmentation_class.name for segmentation_class in config.classes]
        # Requests for two models in one process must not meet: Python loads both into one.
        export = uuid.uuid4().hex
        self._answers, self._predictions = f"answers-{export}", f"predictions-{export}"
        # Each traced once, whatever calls it.
        self._answer_batch = traced_once(self._answer_images)
        self._predict_batch = traced_once(lambda tiles: (predict(tiles),))
        # An image may be cut into a thousand tiles.
        self._images_at_once = 1 if config.image.fit == "tile" else BATCH_ROWS

    def by_name(self) -> dict[str, Callable[..., dict[str, tf.Tensor]]]:
        """The signatures by the names that callers use."""
        return {
            features.SIGNATURE_SERVING: self.serve,
            features.SIGNATURE_REST: self.serve_rest,
            features.SIGNATURE_EXAMPLES: self.serve_examples,
            features.SIGNATURE_PIXELS: self.pixels,
            features.SIGNATURE_PROBABILITIES: self.probabilities,
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=features.INPUT_IMAGE_BYTES)])
    @as_written
    def serve(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """PNG, JPEG, BMP or WebP images of any size, string `[N]` -> for each image: `mask_png`, string, its class ids
        at its own size as a grey PNG; `class_fractions`, float32 `[N, C]`, the share of its pixels of each class;
        `class_names`, string `[N, C]`, in that order: TF Serving hands out no assets that would tell them;
        `confidence`, float32, the mean over its pixels of the probability of the class chosen there; `valid`, bool;
        `error`, string, "" or why there is no answer: then the mask is "" and the numbers are 0. Of a model with an
        operating point also `thresholds`, and `smallest_regions_not_applied`: see `point_outputs`.
        """
        image_bytes = tf.ensure_shape(image_bytes, [None])
        masks, fractions, confidence, error = in_requests(
            lambda part: join_requests(self._answer_batch, part, self._answers, self._images_at_once),
            image_bytes,
            _ROW_TYPES,
            self._images_at_once,
        )
        names = tf.broadcast_to(tf.constant([self._class_names]), [tf.size(masks), self._num_classes])
        return {
            features.OUTPUT_MASK_PNG: masks,
            features.OUTPUT_CLASS_NAMES: names,
            features.OUTPUT_CLASS_FRACTIONS: tf.ensure_shape(fractions, [None, self._num_classes]),
            features.OUTPUT_CONFIDENCE: confidence,
            features.OUTPUT_VALID: error == "",
            features.OUTPUT_ERROR: error,
            **point_outputs(self._decision, tf.size(masks)),
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=features.INPUT_IMAGE_BYTES)])
    @as_written
    def serve_rest(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """The answer of `serve` with the mask under a name that TF Serving's REST interface writes as base64."""
        outputs = self.serve(image_bytes)
        return {features.OUTPUT_MASK_PNG_REST: outputs.pop(features.OUTPUT_MASK_PNG), **outputs}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=features.INPUT_EXAMPLES)])
    @as_written
    def serve_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """The answer of `serve` to serialized records, for InfraValidator and BulkInferrer; they need no mask."""
        key = self._records.image

        def image_of(example: tf.Tensor) -> tf.Tensor:
            return tf.io.parse_single_example(example, {key: tf.io.FixedLenFeature([], tf.string, "")})[key]

        def image_or_nothing(example: tf.Tensor) -> tf.Tensor:
            attempt = tf.data.Dataset.from_tensors(example).map(image_of).ignore_errors(log_warning=False)
            return attempt.concatenate(tf.data.Dataset.from_tensors("")).take(1).get_single_element()

        return self.serve(map_rows(image_or_nothing, tf.ensure_shape(examples, [None]), tf.string))

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name=features.INPUT_PIXELS)])
    @as_written
    def pixels(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        """RGB of one size, uint8 `[N, H, W, 3]` -> `class_ids`, uint8 `[N, H, W]`."""

        def answer(row: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
            return unfit.class_ids_and_confidence(row, size, self._image, self._thresholds)[0]

        class_ids = self._answer_pixels(answer, pixels, tf.uint8)
        return {features.OUTPUT_CLASS_IDS: class_ids, **point_outputs(self._decision, tf.shape(pixels)[0])}

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name=features.INPUT_PIXELS)])
    @as_written
    def probabilities(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        """RGB of one size, uint8 `[N, H, W, 3]` -> `probabilities`, float32 `[N, H, W, C]`."""

        def answer(row: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
            return unfit.unfit_probabilities(row, size, self._image)

        probabilities = self._answer_pixels(answer, pixels, tf.float32)
        return {features.OUTPUT_PROBABILITIES: probabilities, **point_outputs(self._decision, tf.shape(pixels)[0])}

    def _answer_pixels(
        self, answer: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], pixels: tf.Tensor, dtype: tf.DType
    ) -> tf.Tensor:
        # Without this a tensor of another rank would end the whole process inside a kernel.
        pixels = tf.ensure_shape(pixels, [None, None, None, 3])
        size = tf.shape(pixels)[1:3]
        with tf.control_dependencies([self._check_size(tf.shape(pixels))]):
            pixels = tf.identity(pixels)

        def predict(part: tf.Tensor) -> tuple[tf.Tensor]:
            spec = tf.TensorSpec([None, self._image.height, self._image.width, 3], tf.uint8)
            tiles = map_rows(lambda image: images.fit_image(image, self._image), part, spec)
            return (map_rows(lambda row: answer(row, size), self._predict_rows(tiles, self._predict_joined), dtype),)

        [answers] = in_chunks(predict, pixels, (dtype,), self._images_at_once)
        return answers

    def _check_size(self, shape: tf.Tensor) -> tf.Operation:
        """Fails (when run) for pixels of a shape `[N, H, W, 3]` that is refused of encoded images too."""
        limit, sides = self._image.max_pixels, tf.cast(shape[1:3], tf.int64)
        area, most = tf.reduce_prod(sides), f"{limit} pixels (image.max_pixels)"
        fits = (area > 0) & (area <= limit)
        if self._image.fit == "tile":
            fits &= images.pixels_in_tiles(sides[0], sides[1], self._image) <= limit
            most = f"{most}, padded to whole tiles too"
        return tf.debugging.Assert(fits, [f"each image must have from 1 to {most}", shape])

    def _answer_images(self, encoded: tf.Tensor) -> tuple[tf.Tensor, ...]:
        tiles, sizes, problem = images.decode_rows(encoded, self._image)
        probabilities = self._predict_rows(tiles, self._predict)
        # argmax over NaN gives a plausible mask, and a sum of probabilities is finite if each of them is.
        finite = tf.math.is_finite(tf.reduce_sum(probabilities, axis=[1, 2, 3, 4]))
        problem = tf.where((problem == "") & tf.logical_not(finite), "the model gave no number", problem)
        # Another pass over all of them, which is seldom needed.
        probabilities = tf.cond(
            tf.reduce_all(finite),
            lambda: probabilities,
            lambda: tf.where(tf.reshape(finite, [-1, 1, 1, 1, 1]), probabilities, 0.0),
        )
        masks, fractions, confidence = self._masks(probabilities, sizes)
        good = problem == ""
        fractions = tf.where(good[:, tf.newaxis], fractions, 0.0)
        return tf.where(good, masks, ""), fractions, tf.where(good, confidence, 0.0), problem

    def _masks(self, probabilities: tf.Tensor, sizes: tf.Tensor) -> tuple[tf.Tensor, ...]:
        mask = traced_once(self._mask)
        small = tf.reduce_max(tf.reduce_prod(tf.cast(sizes, tf.int64), axis=1)) <= _PARALLEL_PIXELS
        return tf.cond(
            tf.shape(sizes)[0] == 1,
            lambda: tuple(values[tf.newaxis] for values in mask((probabilities[0], sizes[0]))),
            lambda: map_small_rows(mask, (probabilities, sizes), _ROW_TYPES[:3], small),
        )

    def _mask(self, row: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        probabilities, size = row
        class_ids, confidence = unfit.class_ids_and_confidence(probabilities, size, self._image, self._thresholds)
        ids = tf.cast(class_ids, tf.float32)
        # 1 at the class and 0 elsewhere: see `unfit.most_probable`.
        fractions = [tf.reduce_mean(tf.maximum(1 - tf.abs(ids - class_id), 0)) for class_id in range(self._num_classes)]
        return id_png(class_ids), tf.stack(fractions), confidence

    def _predict_rows(self, tiles: tf.Tensor, predict: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        """uint8 `[N, tiles, height, width, 3]` -> float32 `[N, tiles, height, width, C]`."""
        height, width = self._image.height, self._image.width
        flat = tf.reshape(tiles, [-1, height, width, 3])
        predicted = in_batches(predict, flat, self._image)
        return tf.reshape(predicted, [tf.shape(tiles)[0], -1, height, width, self._num_classes])

    def _predict_joined(self, tiles: tf.Tensor) -> tf.Tensor:
        return join_requests(self._predict_batch, tiles, self._predictions, BATCH_ROWS)[0]


def id_png(class_ids: tf.Tensor) -> tf.Tensor:
    """Class ids uint8 `[h, w]` -> a grey PNG, string scalar."""
    return tf.io.encode_png(class_ids[..., tf.newaxis], _PNG_COMPRESSION)


def check_graph(saved_model: "saved_model_pb2.SavedModel") -> None:
    """Raises ValueError for an op that needs Python or files: TF Serving has neither.

    Args:
      saved_model: the export. Saving and restoring variables are the loader's own ops and are let be.
    """
    graph = saved_model.meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    found = sorted({node.op for node in nodes if _is_forbidden(node.op)})
    if found:
        raise ValueError(
            f"the export holds {', '.join(found)}, expected a graph that neither calls Python nor touches files: "
            "replace it by TensorFlow ops"
        )


def _is_forbidden(op: str) -> bool:
    files = (
        "ReadFile",
        "WriteFile",
        "MatchingFiles",
        "TextLine",
        "TFRecord",
        "FixedLengthRecord",
        "Snapshot",
        "SaveDataset",
    )
    return "PyFunc" in op or any(name in op for name in files) or op in {"LoadDataset", "Print", "PrintV2"}
