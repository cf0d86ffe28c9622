"""Does `live queue` teach more than chance? What it picks against random images, round by round, on generated steel.

    .venv/bin/python -m benchmarks.queue                    three seeds, some minutes on 2 cores
    .venv/bin/python -m benchmarks.queue --seeds 0 --steps 250

A model learns from twenty labelled images; five times ten more are labelled, once the ones that `flexunet live queue`
would pick (least sure, then the core-set of the bottleneck) and once random ones of the same four hundred; each time a
new model is trained for as many steps. What is printed is foreground Dice on 200 other surfaces. A paired difference
over three seeds proves little: the range of the seeds is printed beside it.
"""

import argparse
import json
from pathlib import Path
from typing import Final, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from flexunet.core.config.load import config_from
from flexunet.core.config.section import part_of
from flexunet.core.config.train import TrainerConfig
from flexunet.core.config.whole import Config
from flexunet.dataset.synthetic import CLASS_COUNT, generate_surface
from pipeline.queue import POOL, core_set, encoder_of
from trainer_module.trainer import compiled_model

SIDE: Final = 48
START: Final = 20
ADDED: Final = 10
ROUNDS: Final = 5
UNLABELLED: Final = 400
TEST: Final = 200
_BATCH: Final = 8
_SETTINGS: Final = {
    "image": {"height": SIDE, "width": SIDE},
    "model": {"num_layers": 3, "base_filters": 12, "base_kernel": 3, "dropout": 0.0, "normalization": "group"},
}


class Labelled(NamedTuple):
    """Images uint8 `[N, SIDE, SIDE, 3]` and class ids uint8 `[N, SIDE, SIDE]`."""

    images: NDArray[np.uint8]
    class_ids: NDArray[np.uint8]

    def of(self, rows: list[int]) -> "Labelled":
        """Some of them."""
        return Labelled(self.images[rows], self.class_ids[rows])


def main() -> None:
    """Prints Dice by number of labelled images, chosen and random."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=250, help="Of each training, of 8 images.")
    parser.add_argument("--out", type=Path, help="JSON lines, one for each seed; those of earlier calls are shown too.")
    arguments = parser.parse_args()
    found = _earlier(arguments.out)
    for seed in arguments.seeds:
        found[seed] = measure(seed, arguments.steps)
        if arguments.out:
            arguments.out.write_text("".join(json.dumps({"seed": s, "dice": d}) + "\n" for s, d in found.items()))
    _show(found)


def measure(seed: int, steps: int) -> dict[str, list[float]]:
    """Foreground Dice by round, `chosen` and `random`; both begin with the same images and model."""
    pool, test = surfaces(seed, 0, UNLABELLED), surfaces(seed, UNLABELLED, TEST)
    generator = np.random.default_rng(seed)
    begin = [int(row) for row in generator.permutation(UNLABELLED)[:START]]
    config = _config(seed)
    first = trained(config, pool.of(begin), steps)
    scores: dict[str, list[float]] = {}
    for arm in ("chosen", "random"):
        model, rows, dice = first, [*begin], [foreground_dice(first, test)]
        for _ in range(ROUNDS):
            left = [row for row in range(UNLABELLED) if row not in rows]
            rows += _picked(model, config, pool, left) if arm == "chosen" else _random(generator, left)
            model = trained(config, pool.of(rows), steps)
            dice.append(foreground_dice(model, test))
        scores[arm] = dice
    return scores


def surfaces(seed: int, first: int, count: int) -> Labelled:
    """Generated ones."""
    pairs = [generate_surface(1000 + seed, first + index, SIDE) for index in range(count)]
    return Labelled(np.stack([image for image, _ in pairs]), np.stack([class_ids for _, class_ids in pairs]))


def trained(config: TrainerConfig, labelled: Labelled, steps: int) -> keras.Model:
    """A new model, after so many steps."""
    keras.utils.set_random_seed(config.train.seed)
    model = compiled_model(config)
    order = np.random.default_rng(config.train.seed).integers(0, len(labelled.images), steps * _BATCH)
    drawn = labelled.of(order.tolist())
    model.fit(drawn.images.astype(np.float32), drawn.class_ids, batch_size=_BATCH, epochs=1, shuffle=False, verbose=0)
    return model


def foreground_dice(model: keras.Model, test: Labelled) -> float:
    """The mean over the defect classes of Dice from pooled counts."""
    predicted = np.argmax(_probabilities(model, test.images), axis=-1)
    values = []
    for class_id in range(1, CLASS_COUNT):
        ours, truth = predicted == class_id, test.class_ids == class_id
        values.append(2 * np.sum(ours & truth) / max(1, np.sum(ours) + np.sum(truth)))
    return float(np.mean(values))


def _picked(model: keras.Model, config: TrainerConfig, pool: Labelled, left: list[int]) -> list[int]:
    """As `flexunet live queue`: the least sure, of which those are taken that are least like each other."""
    confidence = _probabilities(model, pool.images[left]).max(axis=-1).mean(axis=(1, 2))
    unsure = [left[place] for place in np.argsort(confidence, kind="stable")[: POOL * ADDED]]
    features = encoder_of(model, config).predict(pool.images[unsure].astype(np.float32), verbose=0)
    return [unsure[place] for place in core_set(features, ADDED)]


def _random(generator: np.random.Generator, left: list[int]) -> list[int]:
    return [int(row) for row in generator.choice(left, ADDED, replace=False)]


def _probabilities(model: keras.Model, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return model.predict(images.astype(np.float32), batch_size=50, verbose=0)


def _config(seed: int) -> TrainerConfig:
    classes = [
        {"name": name, "color": color}
        for name, color in (
            *(("background", [0, 0, 0]), ("inclusion", [0, 0, 255])),
            *(("patches", [0, 255, 0]), ("scratches", [255, 0, 0])),
        )
    ]
    train = {"learning_rate": 0.003, "batch_size": _BATCH, "loss": "cross_entropy_dice", "seed": seed}
    whole: Config = config_from({"classes": classes, **_SETTINGS, "train": train}, "benchmark")
    return part_of(whole, TrainerConfig)


def _earlier(path: Path | None) -> dict[int, dict[str, list[float]]]:
    lines = path.read_text().splitlines() if path and path.is_file() else []
    return {row["seed"]: row["dice"] for row in map(json.loads, lines)}


def _show(found: dict[int, dict[str, list[float]]]) -> None:
    chosen, random = (np.array([scores[arm] for scores in found.values()]) for arm in ("chosen", "random"))
    table = Table("labelled", "chosen", "random", "difference", "least", "most", title=f"Dice, seeds {[*found]}")
    for step, number in enumerate(range(START, START + ROUNDS * ADDED + 1, ADDED)):
        gain = chosen[:, step] - random[:, step]
        means = (chosen[:, step].mean(), random[:, step].mean())
        table.add_row(
            str(number),
            *(f"{mean:.4f}" for mean in means),
            *(f"{g:+.4f}" for g in (gain.mean(), gain.min(), gain.max())),
        )
    Console().print(table)


if __name__ == "__main__":
    main()
