"""Chooses the operating point on `eval`, at the images' own size, with the weights that are about to be exported."""

import functools
import io
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from flexunet.core import features
from flexunet.core.config.operating import parse_target
from flexunet.core.config.train import TrainerConfig
from flexunet.core.operating_point import (
    SMALLEST,
    THRESHOLDS,
    Choice,
    Curves,
    DefectRule,
    Scored,
    allowed_false,
    choose,
    curves_of,
    false_regions_per_megapixel,
)
from trainer_module.batching import in_batches
from trainer_module.symmetries import mean_over_symmetries
from transform_module import unfit
from transform_module.graphs import as_written
from transform_module.pipelines import read_records

if TYPE_CHECKING:
    from flexunet.core.results.operating import OperatingPoint

logger = logging.getLogger("flexunet.train")

_FEATURES: Final = {
    features.TRANSFORMED_IMAGE: tf.io.FixedLenFeature([], tf.string),
    features.TRANSFORMED_TRUTH: tf.io.FixedLenFeature([], tf.string),
}


def choose_operating_point(
    model: keras.Model, files: Sequence[str], config: TrainerConfig, rule: DefectRule
) -> "OperatingPoint":
    """Reads Transform's records once, an image at a time.

    Args:
      model: uint8 `[N, height, width, 3]` -> probabilities float32 `[N, height, width, C]`.
      files: records of `eval` with TRANSFORMED_TRUTH.
      config: classes, image and target.
      rule: what is a found defect and what a false region.
    """
    target = parse_target(config.operating_point.target)
    assert target is not None
    num_classes = len(config.classes)
    sizes = [SMALLEST] * num_classes
    counted = [
        curves_of(truth, scored, num_classes, rule, sizes) for truth, scored in _scored_images(model, files, config)
    ]
    curves = functools.reduce(Curves.plus, counted)
    chosen = choose(curves, target, config.image.pixel_size)
    point = _described(curves, chosen, config, len(counted))
    for problem in point["problems"]:
        logger.warning("operating point: %s", problem)
    return point


def score_levels(probabilities: tf.Tensor) -> tf.Tensor:
    """float32 `[h, w, C]` -> uint8 `[h, w, 2]`: the most probable defect class, how many THRESHOLDS are below it."""
    defects = probabilities[..., 1:]
    class_ids = unfit.class_ids_of(defects) + 1
    # A comparison for each threshold takes a quarter of tf.searchsorted's time.
    best = tf.reduce_max(defects, axis=-1)
    levels = tf.add_n([tf.cast(best > threshold, tf.uint8) for threshold in THRESHOLDS])
    return tf.stack([class_ids, levels], axis=-1)


def _scored_images(
    model: keras.Model, files: Sequence[str], config: TrainerConfig
) -> Iterator[tuple[NDArray[np.uint8], Scored]]:
    """Truth, class ids uint8 `[h, w]`, and prediction of each image."""
    shape = [None, config.image.height, config.image.width, 3]

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.uint8), tf.TensorSpec([2], tf.int32)])
    @as_written
    def scored(tiles: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        # As the export answers.
        bare = functools.partial(model, training=False)
        predict = functools.partial(mean_over_symmetries, bare, count=config.serving.symmetries)
        predicted = tf.ensure_shape(in_batches(predict, tiles, config.image), model.output_shape)
        return score_levels(unfit.unfit_probabilities(predicted, size, config.image))

    for record in read_records(files):
        row = tf.io.parse_single_example(record, _FEATURES)
        truth = np.asarray(Image.open(io.BytesIO(row[features.TRANSFORMED_TRUTH].numpy())))
        tiles = tf.io.parse_tensor(row[features.TRANSFORMED_IMAGE], tf.uint8)
        ids_and_levels = scored(tiles, tf.constant(truth.shape, tf.int32)).numpy()
        yield truth, Scored(ids_and_levels[..., 0], ids_and_levels[..., 1])


def _described(curves: Curves, chosen: Sequence[Choice], config: TrainerConfig, count: int) -> "OperatingPoint":
    named = list(zip([c.name for c in config.classes[1:]], range(1, len(config.classes)), chosen, strict=True))
    false = sum(curves.false[class_id][at] for _, class_id, at in named)
    found = {
        name: float(curves.found[class_id][at] / curves.present[class_id]) if curves.present[class_id] else None
        for name, class_id, at in named
    }
    target = parse_target(config.operating_point.target)
    problems = [f"`eval` shows no {name}: its threshold is a guess" for name, share in found.items() if share is None]
    if target and target.unit is None:
        problems += [
            f"no threshold finds {target.bound:.1%} of {name} on `eval`, at most {share:.1%}"
            for name, share in found.items()
            if share is not None and share < target.bound
        ]
    if target and false > allowed_false(target, curves.pixels, config.image.pixel_size):
        problems.append(
            f"no threshold keeps {config.operating_point.target!r} on `eval`: {false:g} false regions are left"
        )
    return {
        "target": config.operating_point.target,
        "thresholds": {name: THRESHOLDS[at.threshold] for name, _, at in named},
        "smallest_regions": {name: SMALLEST[at.smallest] for name, _, at in named},
        "images": count,
        "found_share": found,
        "false_regions_per_megapixel": false_regions_per_megapixel(false, curves.pixels),
        "problems": problems,
    }
