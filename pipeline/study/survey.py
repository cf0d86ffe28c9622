"""What a plan has to know: of the images, from a sample of the records that train, and of the machine."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import keras
import numpy as np
import tensorflow as tf

from flexunet.core import features, scores
from flexunet.core.config.data import ImageConfig, TransformConfig
from flexunet.core.config.train import TrainerConfig
from flexunet.core.errors import UserError, last_line
from flexunet.core.machine import usable_cores, usable_memory
from flexunet.dataset.manifest import newest_versions
from pipeline.study.records import decode_record, record_files, records_of
from trainer_module import devices
from trainer_module.metrics import count_matrix
from trainer_module.trainer import compiled_model
from transform_module import images
from transform_module.unfit import unfit_probabilities

LOOKED_AT: Final = 120
# Of all of them: fewer images where they are large.
_MOST_PIXELS: Final = 50_000_000
# Each model that a plan may choose.
_TIMED_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Pair:
    """One labelled image at its own size: RGB uint8 `[h, w, 3]`, class ids uint8 `[h, w]`."""

    image: np.ndarray
    class_ids: np.ndarray


@dataclass(frozen=True)
class Light:
    """How images differ from each other.

    Attributes:
      brightness: standard deviation of their mean grey levels.
      contrast: standard deviation of their own standard deviations, as a share of the mean one.
      direction: mean over images of ln(energy across columns / energy across rows); 0: no direction.
      directions: its standard deviation.
    """

    brightness: float
    contrast: float
    direction: float
    directions: float


@dataclass(frozen=True)
class Machine:
    """What trains: cores, memory in bytes, and GPUs."""

    cores: int
    memory: int
    gpus: int


def read_pairs(data: Path, config: TransformConfig, wanted: Collection[int] = ()) -> tuple[list[Pair], set[int]]:
    """At most `LOOKED_AT` pairs of the newest `train`, which ingest has shuffled, and the class ids that they show.

    Of large images fewer, and then those of the rest that show a class of which there was none.

    Args:
      data: what `flexunet ingest` wrote.
      config: how records are read.
      wanted: ids of the classes that should be seen.

    Raises:
      UserError: there are none, or one that cannot be decoded as `config` has it.
    """
    [newest] = newest_versions(data, 1)
    pairs: list[Pair] = []
    seen: set[int] = set()
    try:
        for record in islice(records_of(record_files(newest, features.SPLIT_TRAIN)), LOOKED_AT):
            pair = _decoded(record, config)
            shown = _classes_in(pair)
            if sum(other.class_ids.size for other in pairs) < _MOST_PIXELS or (shown - seen).intersection(wanted):
                pairs.append(pair)
                seen |= shown
            elif seen.issuperset(wanted):
                break
    except tf.errors.OpError as error:
        raise UserError(
            f"{data}: a record cannot be decoded: {last_line(error)}; if `flexunet ingest` had a config of yours, name "
            "it by --config"
        ) from None
    if not pairs:
        raise UserError(f"{data}: no records to plan for, expected the output of `flexunet ingest`")
    return pairs, seen


def _classes_in(pair: Pair) -> set[int]:
    # np.unique sorts, which takes ten times as long.
    return {*np.flatnonzero(np.bincount(pair.class_ids.ravel())).tolist()}


def _decoded(record: bytes, config: TransformConfig) -> Pair:
    _, image, class_ids = decode_record(tf.constant(record), config)
    return Pair(image.numpy(), class_ids.numpy())


def ceiling(pairs: Sequence[Pair], image: ImageConfig, num_classes: int) -> np.ndarray:
    """Dice per class `[C]` of a model that errs nowhere at its own size, after the way there and back."""
    counts = np.zeros((num_classes, num_classes))
    for pair in pairs:
        seen = images.fit_class_ids(tf.constant(pair.class_ids), image)
        size = tf.constant(pair.class_ids.shape)
        answer = unfit_probabilities(tf.one_hot(tf.cast(seen, tf.int32), num_classes), size, image)
        counts += count_matrix(tf.constant(pair.class_ids), tf.argmax(answer, axis=-1), num_classes).numpy()
    return scores.dice(counts)


def light_of(pairs: Sequence[Pair]) -> Light:
    """From grey levels."""
    grey = [pair.image.mean(axis=2, dtype=np.float32) for pair in pairs]
    spread = np.array([one.std() for one in grey])
    energy = [[np.square(np.diff(one, axis=axis)).mean() + 1e-6 for axis in (1, 0)] for one in grey]
    direction = np.log(np.array(energy)) @ (1, -1)
    brightness = float(np.std([one.mean() for one in grey]))
    return Light(brightness, float(spread.std() / max(spread.mean(), 1e-6)), *_mean_and_spread(direction))


def _mean_and_spread(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std())


def this_machine() -> Machine:
    """What a training may use here."""
    return Machine(len(usable_cores()), usable_memory(), len(devices.gpu_names()))


def images_a_second(config: TrainerConfig) -> float:
    """Trains the model of `config` on noise for five seconds, on what would train it and in its precision.

    0 where the memory is too small for it.
    """
    size = config.train.batch_size
    gpus = devices.usable_gpus(devices.gpu_names(), size)
    try:
        with devices.make_strategy(gpus).scope(), devices.precision(devices.dtype_policy(config.train)):
            return _images_a_second(compiled_model(config), config, size)
    except tf.errors.ResourceExhaustedError:
        return 0.0


def _images_a_second(model: keras.Model, config: TrainerConfig, size: int) -> float:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (size, config.image.height, config.image.width, 3), np.uint8)
    class_ids = generator.integers(0, len(config.classes), pixels.shape[:3], np.uint8)
    # The first step traces the graph.
    model.train_on_batch(pixels, class_ids)
    started, steps = time.monotonic(), 0
    while steps == 0 or time.monotonic() - started < _TIMED_SECONDS:
        model.train_on_batch(pixels, class_ids)
        steps += 1
    return steps * size / (time.monotonic() - started)
