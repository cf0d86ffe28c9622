"""Does `flexunet live queue` teach more than chance? What it picks against random images, labelled round by round.

    make queue [IMAGES=NEU_SEG]      3 seeds of 2 kinds of generated surfaces, and a user's

A small model learns from 20 labelled images of 32 x 32 pixels. Five times 10 more are labelled: once those that the
queue would pick of half of all images, once random ones of the same. Picked is as the queue does it, the core-set among
the least sure, but the model is asked here and not by its export, which would take most of the time; near-duplicates of
what is labelled and of each other are left out, and where nothing else is left random ones are taken as well. Each time
a network is trained from the same weights for as many steps. What is printed is foreground Dice on the other half of
the images, split by near-duplicate groups. Both arms begin with the same images; three seeds prove little, so the range
of their differences stands beside the mean. What is finished is kept: the same command goes on where it was stopped.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import count, product
from pathlib import Path
from typing import Final, NamedTuple, TypedDict

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.sources import Pair, kinds_of, steel_classes, write_pairs
from flexunet.core import features, scores
from flexunet.core.config.data import TransformConfig
from flexunet.core.config.load import config_from
from flexunet.core.config.section import part_of
from flexunet.core.config.train import TrainerConfig
from flexunet.core.config.whole import Config
from flexunet.core.files import replace_text
from flexunet.dataset.ingest import ingest
from flexunet.dataset.manifest import versions
from flexunet.dataset.synthetic import generate_surface
from pipeline.queue import POOL, core_set, encoder_of
from pipeline.study.records import decode_record, record_files, records_of
from trainer_module.metrics import count_matrix
from trainer_module.optimization import cosine
from trainer_module.trainer import compiled_model
from transform_module import images

START: Final = 20
ADDED: Final = 10
ROUNDS: Final = 5
ARMS: Final = ("chosen", "random")
_SIDE: Final = 32
_SURFACES: Final = 600
_BATCH: Final = 8
_LEARNING_RATE: Final = 0.003


class Labelled(NamedTuple):
    """As the model sees them: images uint8 `[N, side, side, 3]`, class ids uint8 `[N, side, side]`."""

    images: NDArray[np.uint8]
    class_ids: NDArray[np.uint8]

    def of(self, rows: list[int]) -> "Labelled":
        """Some of them."""
        return Labelled(self.images[rows], self.class_ids[rows])


class Arm(TypedDict):
    """What is labelled, in this order, and foreground Dice by round, of which the first is before any."""

    rows: list[int]
    dice: list[float]


class Simulation(NamedTuple):
    """Who is asked: `pool` can be labelled, `groups[i]` is that of the near-duplicates of row `i`; `test` measures."""

    config: Config
    groups: list[str]
    pool: Labelled
    test: Labelled


class Learner:
    """A network that begins each training anew, with the same weights: compiled once, trained often."""

    def __init__(self, config: TrainerConfig, steps: int) -> None:
        keras.backend.clear_session()
        keras.utils.set_random_seed(config.train.seed)
        self.config, self._steps = config, steps
        self.model = compiled_model(config)
        self.model.optimizer.build(self.model.trainable_variables)
        self._variables = [*self.model.variables, *self.model.optimizer.variables]
        self._begin = [variable.numpy() for variable in self._variables]

    def learn(self, labelled: Labelled) -> keras.Model:
        """The model after so many steps of a falling rate, on images that are turned and mirrored at random."""
        for variable, value in zip(self._variables, self._begin, strict=True):
            variable.assign(value)
        generator = np.random.default_rng(self.config.train.seed)
        pictures = np.empty((self._steps * _BATCH, *labelled.images.shape[1:]), np.float32)
        class_ids = np.empty(pictures.shape[:3], np.uint8)
        for place, row in enumerate(generator.integers(0, len(labelled.images), len(pictures))):
            turns, mirrored = int(generator.integers(4)), 1 - 2 * int(generator.integers(2))
            pictures[place] = np.rot90(labelled.images[row], turns)[:, ::mirrored]
            class_ids[place] = np.rot90(labelled.class_ids[row], turns)[:, ::mirrored]
        falling = keras.callbacks.LambdaCallback(on_train_batch_begin=self._fall)
        self.model.fit(pictures, class_ids, batch_size=_BATCH, shuffle=False, verbose=0, callbacks=[falling])
        return self.model

    def _fall(self, step: int, logs: object = None) -> None:
        self.model.optimizer.learning_rate = _LEARNING_RATE * cosine(step / self._steps)

    def dice(self, test: Labelled) -> float:
        """Foreground Dice of the model as it is."""
        predicted = np.argmax(self.model.predict(test.images.astype(np.float32), batch_size=50, verbose=0), axis=-1)
        counts = count_matrix(tf.constant(test.class_ids), tf.constant(predicted), len(self.config.classes))
        return float(scores.foreground_dice(counts.numpy()))


def _surfaces() -> Iterator[Pair]:
    """As they are generated: one in eight shows no defect."""
    return (generate_surface(21, index, _SIDE) for index in range(_SURFACES))


def _mostly_sound() -> Iterator[Pair]:
    """Four of five show no defect, as most of what a mill sees."""
    left = {True: _SURFACES // 5, False: _SURFACES - _SURFACES // 5}
    for index in count():
        pair = generate_surface(22, index, _SIDE)
        has_defect = bool(pair[1].any())
        if left[has_defect]:
            left[has_defect] -= 1
            yield pair
        if not any(left.values()):
            return


KINDS: Final[Mapping[str, Callable[[], Iterator[Pair]]]] = {"surfaces": _surfaces, "mostly sound": _mostly_sound}


def main() -> None:
    """Runs what is missing and prints a table for each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="Folder of images and masks in neu-seg's classes, as one more.")
    parser.add_argument("--out", type=Path, default=Path("runs/queue"))
    parser.add_argument("--steps", type=int, default=300, help=f"Of each training, of {_BATCH} images.")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", metavar="KIND", help="These kinds alone.")
    arguments = parser.parse_args()
    for kind in kinds_of(arguments.only, KINDS, arguments.images):
        folder = arguments.out / kind.replace(" ", "-")
        source = arguments.images if kind not in KINDS else folder / "source"
        found = _measured(kind, source, folder, arguments.steps, arguments.seeds)
        Console(width=120).print(_table(kind, arguments.steps, arguments.seeds, found))


def _measured(kind: str, source: Path, folder: Path, steps: int, seeds: list[int]) -> list[dict[str, Arm]]:
    """The arms of each seed; what an earlier call finished is read."""
    path = folder / f"{steps}-steps.json"
    found: dict[str, dict[str, Arm]] = json.loads(path.read_text()) if path.is_file() else {}
    missing = [seed for seed in seeds if not _is_whole(found.get(str(seed), {}))]
    if missing:
        if kind in KINDS:
            write_pairs(KINDS[kind](), _SURFACES, source)
        simulation = _simulation(source, folder)
        for seed in missing:
            drawn = np.random.default_rng(seed).permutation(len(simulation.groups)).tolist()
            labelled = {"chosen": START, "random": START + ROUNDS * ADDED}
            arms = found.setdefault(str(seed), {arm: {"rows": drawn[: labelled[arm]], "dice": []} for arm in ARMS})
            for told in _rounds(simulation, arms, seed, steps):
                replace_text(path, json.dumps(found))
                print(f"{kind}, seed {seed}, {told}", flush=True)
    return [found[str(seed)] for seed in seeds]


def _is_whole(arms: Mapping[str, Arm]) -> bool:
    return bool(arms) and all(len(arm["dice"]) > ROUNDS for arm in arms.values())


def _simulation(source: Path, folder: Path) -> Simulation:
    """One half of the images can be labelled, the other one measures."""
    config = config_from({
        "classes": steel_classes(),
        "image": {"height": _SIDE, "width": _SIDE},
        "model": {"num_layers": 3, "base_filters": 8, "base_kernel": 3, "dropout": 0.0, "normalization": "group"},
        "train": {"optimizer": "muon", "learning_rate": _LEARNING_RATE, "loss": "cross_entropy_dice"},
        "dataset": {"train": 0.5, "eval": 0.25, "test": 0.25},
    }, "benchmark")  # fmt: skip
    ingest(source, folder / "records", config, splits="regroup", accept_losses=True)
    groups, pool = _read(folder / "records", config, [features.SPLIT_TRAIN])
    _, test = _read(folder / "records", config, [features.SPLIT_EVAL, features.SPLIT_TEST])
    return Simulation(config, groups, pool, test)


def _read(records: Path, config: Config, splits: list[str]) -> tuple[list[str], Labelled]:
    """Groups of near-duplicates, and what the model sees of the images."""
    [version] = versions(records).values()
    settings = part_of(config, TransformConfig)
    groups: list[str] = []
    pictures: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.uint8]] = []
    for record in records_of([file for split in splits for file in record_files(version, split)]):
        row, image, class_ids = decode_record(tf.constant(record), settings, [settings.records.group])
        groups.append(row[settings.records.group].numpy().decode())
        pictures.append(images.fit_image(image, config.image).numpy()[0])
        labels.append(images.fit_class_ids(class_ids, config.image).numpy()[0])
    return groups, Labelled(np.stack(pictures), np.stack(labels))


def _rounds(given: Simulation, arms: Mapping[str, Arm], seed: int, steps: int) -> Iterator[str]:
    """Goes on with the arms, a round of each in turn, and tells each."""
    config = part_of(given.config, TrainerConfig)
    learner = Learner(config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})}), steps)
    for number, name in product(range(ROUNDS + 1), ARMS):
        rows, dice = arms[name]["rows"], arms[name]["dice"]
        if len(dice) > number:
            continue
        labelled = START + number * ADDED
        if number or name == "chosen":
            learner.learn(given.pool.of(rows[:labelled]))
            dice.append(learner.dice(given.test))
        else:
            # The same images and weights.
            dice.append(arms["chosen"]["dice"][0])
        if number < ROUNDS and name == "chosen":
            rows += _picked(learner, given, rows)
        yield f"{name}, {labelled} labelled: {dice[-1]:.3f}"


def _picked(learner: Learner, given: Simulation, rows: list[int]) -> list[int]:
    """As `pipeline.queue.pick`: the core-set among the least sure that are new; random ones where these are too few."""
    probabilities = learner.model.predict(given.pool.images.astype(np.float32), batch_size=50, verbose=0)
    confidence = probabilities.max(axis=-1).mean(axis=(1, 2))
    known, fresh = {given.groups[row] for row in rows}, list[int]()
    for row in np.argsort(confidence).tolist():
        if given.groups[row] not in known:
            known.add(given.groups[row])
            fresh.append(row)
    pool, found = fresh[: POOL * ADDED], list[int]()
    if pool:
        encoder = encoder_of(learner.model, learner.config)
        bottleneck = encoder.predict(given.pool.images[pool].astype(np.float32), batch_size=50, verbose=0)
        found = [pool[index] for index in core_set(bottleneck, ADDED)]
    left = sorted({*range(len(given.groups))} - {*rows} - {*found})
    return found + np.random.default_rng(len(rows)).choice(left, ADDED - len(found), replace=False).tolist()


def _table(kind: str, steps: int, seeds: list[int], found: list[dict[str, Arm]]) -> Table:
    chosen, at_random = (np.array([arms[name]["dice"] for arms in found]) for name in ARMS)
    title = f"{kind}: foreground Dice, the mean of seeds {', '.join(map(str, seeds))}; {steps} steps a training"
    table = Table("labelled", *ARMS, "difference", "least", "most", title=title)
    for number, (ours, theirs) in enumerate(zip(chosen.T, at_random.T, strict=True)):
        gains = ours - theirs
        table.add_row(
            str(START + number * ADDED),
            *(f"{values.mean():.3f}" for values in (ours, theirs)),
            *(f"{gain:+.3f}" for gain in (gains.mean(), gains.min(), gains.max())),
        )
    return table


if __name__ == "__main__":
    main()
