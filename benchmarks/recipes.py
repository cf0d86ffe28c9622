"""Recipes against each other on a user's images: same network, same seconds.

    make recipes IMAGES=NEU_SEG     the preset neu-seg against the seed's recipe: 3 seeds each of 8 minutes
    make ablation IMAGES=NEU_SEG    what each part of the preset is worth: 6 arms, 2 seeds each of 3 minutes

Each run is a process of its own and has `--cores` cores to itself; as many run at once as the machine has room for.
What is finished is kept below --out under a hash of configuration, code, data and cores, so that the same command goes
on where it was stopped, and a changed one begins anew. Parts of the recipe are chosen by `eval`; recipes are compared
on `test`. Seconds are only as good as the machine is idle: the table tells the epochs of each run.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Queue
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from flexunet.core import features, scores
from flexunet.core.config.data import TransformConfig
from flexunet.core.config.load import load_config
from flexunet.core.config.section import part_of
from flexunet.core.config.train import AugmentConfig, TrainerConfig
from flexunet.core.config.whole import Config
from pipeline.fingerprint import code_fingerprint

PRESET: Final = "neu-seg"
# Budgets are seconds: no run ends by its number of epochs.
_BUDGET: Final = ("train.epochs=100000", "train.early_stopping_patience=100000")
# The preset, less one part each.
ABLATION: Final[Mapping[str, Mapping[str, Any]]] = {
    "neu-seg": {},
    "no Dice in the loss": {"train": {"loss": "cross_entropy"}},
    "flips only": {"augment": AugmentConfig(horizontal_flip=True, vertical_flip=True)},
    "no averaged weights": {"train": {"ema_decay": None}},
    "Adam, constant rate": {"train": {"optimizer": "adam", "weight_decay": 0.0, "schedule": "constant"}},
    # An eighth more multiply-accumulates than with kernel 5 and 8 filters; the seconds are the same.
    "kernel 3, 10 filters": {"model": {"base_kernel": 3, "base_filters": 10}},
}
RECIPES: Final = ("neu-seg", "the seed's")
# What decides a run's result, beside its configuration and its data.
_CODE: Final = ("trainer_module.trainer",)


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["recipes", "ablation", "one"])
    parser.add_argument("--images", type=Path, help="Folder of images and masks.")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--minutes", type=float, help="Of training, each run; 8 for recipes, 3 for the ablation.")
    parser.add_argument("--seeds", type=int, help="Runs of each arm; 3 for recipes, 2 for the ablation.")
    parser.add_argument("--cores", type=int, default=2, help="Of each run.")
    parser.add_argument("--run", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.what == "one":
        _train_one(Run(**arguments.run), arguments.out)
        return
    recipes = arguments.what == "recipes"
    arms, split = (RECIPES, features.SPLIT_TEST) if recipes else (tuple(ABLATION), features.SPLIT_EVAL)
    minutes, seeds = arguments.minutes or (8.0 if recipes else 3.0), arguments.seeds or (3 if recipes else 2)
    data = _prepare(arguments.images, arguments.out)
    runs = [Run(arm, seed, minutes, arguments.cores, data) for seed in range(seeds) for arm in arms]
    _run_missing(runs, arguments.cores, arguments.out)
    Console(width=130).print(_table(runs, split, arguments.out))


@dataclass(frozen=True)
class Run:
    """One training; `data` is the name of the folder of tiles."""

    arm: str
    seed: int
    minutes: float
    cores: int
    data: str

    @property
    def config(self) -> Config:
        """What it trains with."""
        return config_of(self.arm, self.seed, self.minutes)

    @property
    def name(self) -> str:
        """Of its result, its logs and its checkpoint."""
        parts = [self.config.model_dump_json(), str(self.cores), self.data, code_fingerprint(_CODE)]
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
        return f"{''.join(c if c.isalnum() else '-' for c in self.arm)}-seed{self.seed}-{digest}"

    def result(self, out: Path) -> dict[str, Any]:
        """What the finished run found."""
        return json.loads((out / f"{self.name}.json").read_text())


def config_of(arm: str, seed: int, minutes: float) -> Config:
    """The preset with what the arm changes, bounded by seconds and not by epochs."""
    budget = (*_BUDGET, f"train.max_seconds={60 * minutes}", f"train.seed={seed}", "train.preview_images=0")
    preset = load_config(PRESET, budget)
    if arm in ABLATION:
        return _changed(preset, **ABLATION[arm])
    source = load_config("synthetic-neu-seg", budget)
    regularization = {key: getattr(source.model, key) for key in ("normalization", "dropout", "activation")}
    return _changed(preset, train=source.train, augment=source.augment, model=regularization)


def _changed(config: Config, **sections: Any) -> Config:
    def update(name: str, change: Any) -> Any:
        return getattr(config, name).model_copy(update=change) if isinstance(change, dict) else change

    return config.model_copy(update={name: update(name, change) for name, change in sections.items()})


def _prepare(images: Path | None, out: Path) -> str:
    """Records of the images, split by group, and the tiles that Transform would give; returns the folder's name."""
    if images is None:
        sys.exit("error: name a folder of images and masks: make recipes IMAGES=DIR")
    from flexunet.dataset.ingest import ingest

    config = load_config(PRESET)
    done = ingest(images, out / "records", config, splits="regroup")
    assert done.version is not None
    parts = [done.manifest["fingerprint"], part_of(config, TransformConfig).model_dump_json()]
    name = f"tiles-{hashlib.sha256(''.join(parts).encode()).hexdigest()[:12]}"
    if not (out / name).is_dir():
        _transform(done.version, config, out / f".{name}.incomplete")
        (out / f".{name}.incomplete").rename(out / name)
    return name


def _transform(version: Path, config: Config, target: Path) -> None:
    import tensorflow as tf

    from transform_module.preprocessing import preprocessing_fn

    target.mkdir(parents=True, exist_ok=True)
    settings = {"config": part_of(config, TransformConfig).model_dump_json()}
    keys = (config.records.image, config.records.mask, config.records.id)
    for split in (features.SPLIT_TRAIN, features.SPLIT_EVAL):
        with tf.io.TFRecordWriter(str(target / f"{split}.tfrecord.gz"), "GZIP") as writer:
            for record in _records(version / split):
                row = tf.io.parse_single_example(record, {key: tf.io.FixedLenFeature([1], tf.string) for key in keys})
                tiles = preprocessing_fn({key: row[key][tf.newaxis] for key in keys}, settings)
                example = tf.train.Example()
                for name, value in tiles.items():
                    example.features.feature[name].bytes_list.value.append(value[0].numpy())
                writer.write(example.SerializeToString())


def _records(directory: Path) -> Iterator[bytes]:
    import tensorflow as tf

    files = [str(path) for path in sorted(directory.glob("*.tfrecord.gz"))]
    return tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator()


def _run_missing(runs: Sequence[Run], cores: int, out: Path) -> None:
    available = sorted(os.sched_getaffinity(0))
    if cores > len(available):
        sys.exit(f"error: --cores {cores}, expected at most the {len(available)} of this machine")
    slots: Queue[list[int]] = Queue()
    for start in range(0, len(available) - cores + 1, cores):
        slots.put(available[start : start + cores])
    missing = [run for run in runs if not (out / f"{run.name}.json").is_file()]
    print(f"{len(missing)} of {len(runs)} runs to do, {slots.qsize()} at once", flush=True)

    def work(run: Run) -> None:
        slot = slots.get()
        try:
            _start(run, slot, out)
        finally:
            slots.put(slot)
        print(f"{run.arm}, seed {run.seed}: {run.result(out)['epochs']} epochs", flush=True)

    with ThreadPoolExecutor(slots.qsize()) as pool:
        list(pool.map(work, missing))


def _start(run: Run, cores: Sequence[int], out: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.recipes", "one", "--out", str(out), "--run", json.dumps(asdict(run))]
    with (out / "runs.log").open("a") as log:
        # TensorFlow makes as many threads as there are cores that it may use.
        subprocess.run(  # noqa: S603
            command, check=True, stdout=log, stderr=log, preexec_fn=lambda: os.sched_setaffinity(0, cores)
        )


def _train_one(run: Run, out: Path) -> None:
    from trainer_module.trainer import Job, train

    config = part_of(run.config, TrainerConfig)
    patterns = [[str(out / run.data / f"{split}.tfrecord.gz")] for split in (features.SPLIT_TRAIN, features.SPLIT_EVAL)]
    job = Job(*patterns, out / "logs" / run.name, out / "checkpoints" / run.name, code_fingerprint(_CODE))
    trained = train(job, config)
    result: dict[str, Any] = {
        "epochs": trained.epochs,
        "seconds": trained.seconds,
        "parameters": trained.model.count_params(),
    }
    for split in (features.SPLIT_EVAL, features.SPLIT_TEST):
        counts = _counts(trained.model, config, split, out)
        result[split] = {"foreground_dice": float(scores.foreground_dice(counts)), "dice": scores.dice(counts).tolist()}
    aside = out / f".{run.name}.incomplete"
    aside.write_text(json.dumps(result))
    aside.rename(out / f"{run.name}.json")
    trained.checkpoint.discard()


def _counts(model: Any, config: TrainerConfig, split: str, out: Path) -> np.ndarray:
    """Counts of a split at each image's own size, by the signature that the Evaluator calls."""
    import tensorflow as tf

    from flexunet.dataset.manifest import versions
    from trainer_module.export import SegmentationModule

    module = SegmentationModule(model, config)
    records = list(_records(versions(out / "records")[1] / split))
    return module.evaluate(tf.constant(records))[features.OUTPUT_COUNTS].numpy().sum(axis=0)


def _table(runs: Sequence[Run], split: str, out: Path) -> Table:
    classes = [c.name for c in load_config(PRESET).classes[1:]]
    title = f"foreground Dice on {split}, {runs[0].minutes:g} minutes of training each"
    table = Table("arm", "mean", "each seed", *classes, "epochs", "parameters", title=title)
    for arm in dict.fromkeys(run.arm for run in runs):
        results = [run.result(out) for run in runs if run.arm == arm]
        values = [result[split]["foreground_dice"] for result in results]
        dice = np.mean([result[split]["dice"][1:] for result in results], axis=0)
        table.add_row(
            arm,
            f"{np.mean(values):.3f}",
            " ".join(f"{value:.3f}" for value in values),
            *(f"{value:.3f}" for value in dice),
            " ".join(str(result["epochs"]) for result in results),
            f"{results[0]['parameters']:,}",
        )
    return table


if __name__ == "__main__":
    main()
