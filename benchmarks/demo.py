"""Seconds until the demo's model has learnt its surfaces, beside those of the recipe that the demo had in release 0.1.

    make bench                            about 3 minutes on 2 cores
    .venv/bin/python -m benchmarks.demo --seeds 3

Both train on 384 of the demo's surfaces until foreground Dice on 48 others is 0.87; the seconds are Trainer's own,
evaluations included. Each training is a process of its own, and the two take turns.
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.processes import told_by
from benchmarks.training import write_tiles
from flexunet.core.config.load import load_config
from flexunet.core.config.section import part_of
from flexunet.core.config.train import TrainerConfig

REACHED: Final = 0.87
# What the ratio of seconds may be at most.
BOUND: Final = 0.6
TRAIN, EVAL = 384, 48
# Keras' momentum of the moving statistics was no setting then.
EARLIER: Final = (
    "model.base_kernel=5",
    *("train.epochs=30", "train.learning_rate=2e-3", "train.schedule=cosine", "train.early_stopping_patience=30"),
    "train.batch_norm_momentum=0.99",
)
RECIPES: Final = {"demo": (), "demo of 0.1": EARLIER}


def main() -> None:
    """Measures and prints; a missed bound is no error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--measure", choices=sorted(RECIPES), help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--tiles", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(seconds_to_reach(arguments.measure, arguments.seed, arguments.tiles)))
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryDirectory() as directory:
        write_tiles(Path(directory), TRAIN, EVAL)
        seeds = range(137, 137 + arguments.seeds)
        rounds = [{name: _measured(name, seed, Path(directory)) for name in RECIPES} for seed in seeds]
    Console(width=100).print(_table(rounds))


def seconds_to_reach(recipe: str, seed: int, tiles: Path) -> tuple[float, int]:
    """Seconds and epochs until `eval` says REACHED; NaN and all epochs where it never does."""
    import keras

    from trainer_module import trainer

    class Reached(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            if (logs or {})["val_foreground_dice"] >= REACHED:
                self.model.stop_training = reached.append(epoch) is None

    reached: list[int] = []
    overrides = [*RECIPES[recipe], f"train.seed={seed}", "train.preview_images=0"]
    config = part_of(load_config("demo", overrides), TrainerConfig)
    patterns = [[str(tiles / f"{split}.gz")] for split in ("train", "eval")]
    job = trainer.Job(*patterns, tiles / "logs", tiles / "checkpoints", callbacks=[Reached()])
    trained = trainer.train(job, config)
    trained.checkpoint.discard()
    return (trained.seconds if reached else float("nan")), trained.epochs


def _measured(recipe: str, seed: int, tiles: Path) -> tuple[float, int]:
    return told_by("benchmarks.demo", "--measure", recipe, "--seed", seed, "--tiles", tiles)


def _table(rounds: list[dict[str, tuple[float, int]]]) -> Table:
    now, earlier = RECIPES
    ratio = statistics.median(r[now][0] / r[earlier][0] for r in rounds)
    table = Table("recipe", "seconds", "epochs", title=f"until eval foreground Dice is {REACHED}", box=None)
    for name in RECIPES:
        seconds, epochs = (" ".join(f"{r[name][part]:.0f}" for r in rounds) for part in (0, 1))
        table.add_row(name, seconds, epochs)
    table.add_row("ratio, median", f"{ratio:.2f}", f"at most {BOUND}: {'ok' if ratio <= BOUND else 'missed'}")
    return table


if __name__ == "__main__":
    main()
