"""Training images per second of our Trainer, beside a bare Keras loop and the seed's way of training.

    make bench                                   the 1.96 M-parameter model at 128x128, about 5 minutes on 2 cores
    .venv/bin/python -m benchmarks.training --steps 6

Each subject is a process of its own. They take turns, several rounds, and the median of the ratios of each round is
what counts: a machine that slows down meanwhile slows all of them.

- ours: `trainer.train` on records as Transform writes them, early stopping, metric, TensorBoard and determinism
  included; pictures off, augmentation off, or that of the preset neu-seg.
- bare: `train_on_batch` on one batch that is in memory already, the same loss, optimizer and model; nothing else.
- seed: one thread, batch 2, the whole data as one-hot float arrays in memory, as the original trains.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

from benchmarks.processes import told_by
from flexunet.core.config.load import load_config
from flexunet.core.config.section import part_of
from flexunet.core.config.train import TrainerConfig

if TYPE_CHECKING:
    import keras

SIZE: Final = 128
BATCH: Final = 8
# What the ratios have to reach: to the bare loop, without augmentation and with it; to the seed's way without.
TO_BARE: Final = {"ours": 0.99, "ours, augmented": 0.97}
TO_SEED: Final = 1.6


def main() -> None:
    """Measures and prints; a missed bound is no error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=16, help="Steps of 8 images that are timed in each round.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", choices=sorted(_SUBJECTS), help=argparse.SUPPRESS)
    parser.add_argument("--tiles", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(_SUBJECTS[arguments.measure](arguments.tiles, arguments.steps)))
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryDirectory() as directory:
        tiles = Path(directory)
        write_tiles(tiles, arguments.steps * BATCH, BATCH)
        rounds = [
            {name: _measured(name, tiles, arguments.steps) for name in _SUBJECTS} for _ in range(arguments.rounds)
        ]
    Console(width=100).print(_table(rounds))


def config_for(augmented: bool) -> TrainerConfig:
    """The 1.96 M-parameter model, three epochs, of which the first warms up.

    With AdamW, whatever the preset trains with: the bare loop stays what it was.
    """
    overrides = [
        *(f"image.{side}={SIZE}" for side in ("height", "width")),
        *("model.base_filters=16", "model.base_kernel=5", "model.normalization=none"),
        *(f"train.batch_size={BATCH}", "train.epochs=3"),
        *("train.preview_images=0", "train.schedule=constant", "train.optimizer=adamw", "train.learning_rate=2e-3"),
    ]
    config = part_of(load_config("neu-seg", overrides), TrainerConfig)
    return config if augmented else config.model_copy(update={"augment": type(config.augment)()})


def ours(tiles: Path, steps: int, augmented: bool = False) -> float:
    """Images per second of the steps of epochs 2 and 3; evaluation between epochs is not training."""
    from trainer_module import trainer

    seconds: list[float] = []
    patterns = [[str(tiles / f"{split}.gz")] for split in ("train", "eval")]
    job = trainer.Job(*patterns, tiles / "logs", tiles / "checkpoints", callbacks=[_epoch_clock(seconds)])
    trainer.train(job, config_for(augmented)).checkpoint.discard()
    return 2 * steps * BATCH / sum(seconds[1:])


def bare(tiles: Path, steps: int) -> float:
    """Images per second of `train_on_batch` on the first batch of the same data."""
    from trainer_module import data
    from trainer_module.losses import make_loss
    from trainer_module.optimization import make_optimizer

    config = config_for(False)
    model = _model(config)
    model.compile(make_optimizer(config.train), make_loss(config.train, config.classes), jit_compile=False)
    images, class_ids = next(iter(data.training_batches([str(tiles / "train.gz")], steps * BATCH, config, "")))
    return BATCH / _seconds_a_step(lambda: model.train_on_batch(images, class_ids), steps)


def seed(tiles: Path, steps: int) -> float:
    """Images per second of `fit` as the seed calls it: one thread, batch 2, one-hot arrays in memory."""
    import keras
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    from trainer_module import data

    config = config_for(False)
    pairs = list(data.tiles_dataset([str(tiles / "train.gz")], config).take(2 * steps).as_numpy_iterator())
    images = np.stack([image for image, _ in pairs])
    one_hot = np.eye(len(config.classes), dtype=np.float32)[np.stack([ids for _, ids in pairs])]
    model = _model(config)
    model.compile(keras.optimizers.Adam(6e-5, clipvalue=0.5), "categorical_crossentropy", jit_compile=False)
    seconds: list[float] = []
    model.fit(images, one_hot, batch_size=2, epochs=3, verbose=0, callbacks=[_epoch_clock(seconds)])
    return 2 * 2 * steps / sum(seconds[1:])


def _model(config: TrainerConfig) -> "keras.Model":
    from trainer_module.model import build_model

    return build_model(config)


def _epoch_clock(seconds: list[float]) -> "keras.callbacks.Callback":
    """Adds to `seconds` those from the first to the last step of each epoch."""
    import keras

    class EpochClock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            self._started = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            self._ended = time.perf_counter()

        def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
            seconds.append(self._ended - self._started)

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            if len(seconds) == epoch:
                seconds.append(self._ended - self._started)

    return EpochClock()


def _seconds_a_step(step: Callable[[], object], steps: int) -> float:
    for _ in range(3):
        step()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - started) / steps


_SUBJECTS: Final[dict[str, Callable[[Path, int], float]]] = {
    "ours": ours,
    "ours, augmented": lambda tiles, steps: ours(tiles, steps, augmented=True),
    "bare": bare,
    "seed": seed,
}


def _measured(name: str, tiles: Path, steps: int) -> float:
    return told_by("benchmarks.training", "--measure", name, "--tiles", tiles, "--steps", steps)


def write_tiles(directory: Path, train: int, evaluation: int) -> None:
    """Writes generated surfaces as Transform's records, so many of each: `train.gz` and `eval.gz`."""
    import numpy as np
    import tensorflow as tf

    from flexunet.core import features
    from flexunet.dataset.synthetic import generate_surface

    for split, first, images in (("train", 0, train), ("eval", train, evaluation)):
        with tf.io.TFRecordWriter(str(directory / f"{split}.gz"), "GZIP") as writer:
            for index in range(first, first + images):
                image, class_ids = generate_surface(137, index, SIZE)
                example = tf.train.Example()
                values = {features.TRANSFORMED_IMAGE: image, features.TRANSFORMED_CLASS_IDS: class_ids}
                for key, value in values.items():
                    serialized = tf.io.serialize_tensor(np.asarray(value)[np.newaxis]).numpy()
                    example.features.feature[key].bytes_list.value.append(serialized)
                writer.write(example.SerializeToString())


def _table(rounds: list[dict[str, float]]) -> Table:
    def ratio(name: str, other: str) -> float:
        return statistics.median(r[name] / r[other] for r in rounds)

    table = Table("", "images/s", "to bare", "to the seed's", "", title="training, median of rounds", box=None)
    for name in _SUBJECTS:
        speed = statistics.median(r[name] for r in rounds)
        verdict = ""
        if name in TO_BARE:
            good = ratio(name, "bare") >= TO_BARE[name] and (name != "ours" or ratio(name, "seed") >= TO_SEED)
            bounds = f"{TO_BARE[name]} and {TO_SEED}" if name == "ours" else str(TO_BARE[name])
            verdict = f"at least {bounds}: {'ok' if good else 'missed'}"
        table.add_row(name, f"{speed:.1f}", f"{ratio(name, 'bare'):.2f}", f"{ratio(name, 'seed'):.2f}", verdict)
    return table


if __name__ == "__main__":
    main()
