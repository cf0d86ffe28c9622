"""Recipes against each other on a user's images: same network, same seconds, scores on the test split.

    make recipes IMAGES=NEU_SEG     the preset neu-seg against the seed's recipe: 3 seeds each of 8 minutes
    make ablation IMAGES=NEU_SEG    what each part of the preset is worth: 6 arms, 2 seeds each of 3 minutes

Each run is a process of its own and has `--cores` cores to itself; as many run at once as the machine has room for.
What is finished is kept below --out, so that the same command goes on where it was stopped.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline import features, scores
from pipeline.config import AugmentConfig, Config, TrainerConfig, TransformConfig, load_config, part_of

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


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["recipes", "ablation", "one"])
    parser.add_argument("--images", type=Path, help="Folder of images and masks.")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--minutes", type=float, help="Of training, each run; 8 for recipes, 3 for the ablation.")
    parser.add_argument("--seeds", type=int, help="Runs of each arm; 3 for recipes, 2 for the ablation.")
    parser.add_argument("--cores", type=int, default=2, help="Of each run.")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.what == "one":
        _train_one(arguments.arm, arguments.seed, arguments.minutes, arguments.out)
        return
    arms = list(RECIPES if arguments.what == "recipes" else ABLATION)
    minutes = arguments.minutes or (8.0 if arguments.what == "recipes" else 3.0)
    seeds = arguments.seeds or (3 if arguments.what == "recipes" else 2)
    _prepare(arguments.images, arguments.out)
    _run_missing([(arm, seed) for seed in range(seeds) for arm in arms], minutes, arguments.cores, arguments.out)
    Console(width=120).print(_table(arms, seeds, minutes, arguments.out))


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


def _prepare(images: Path | None, out: Path) -> None:
    """Records of the images, split by group, and the tiles that Transform would give."""
    if (out / "tiles").is_dir():
        return
    if images is None:
        sys.exit("error: name a folder of images and masks: make recipes IMAGES=DIR")
    from dataset.ingest import ingest

    config = load_config(PRESET)
    version = ingest(images, out / "records", config, splits="regroup").version
    assert version is not None
    _transform(version, config, out / ".tiles.incomplete")
    (out / ".tiles.incomplete").rename(out / "tiles")


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


def _run_missing(runs: Sequence[tuple[str, int]], minutes: float, cores: int, out: Path) -> None:
    available = sorted(os.sched_getaffinity(0))
    slots: Queue[list[int]] = Queue()
    for start in range(0, len(available) - cores + 1, cores):
        slots.put(available[start : start + cores])
    missing = [run for run in runs if not _result_file(*run, minutes, out).is_file()]
    print(f"{len(missing)} of {len(runs)} runs to do, {slots.qsize()} at once, {minutes:g} minutes each", flush=True)

    def work(run: tuple[str, int]) -> None:
        arm, seed = run
        slot = slots.get()
        command = [sys.executable, "-m", "benchmarks.recipes", "one", "--out", str(out), "--arm", arm]
        command += ["--seed", str(seed), "--minutes", str(minutes)]
        with (out / "runs.log").open("a") as log:
            # TensorFlow makes as many threads as there are cores that it may use.
            subprocess.run(  # noqa: S603
                command, check=True, stdout=log, stderr=log, preexec_fn=lambda: os.sched_setaffinity(0, slot)
            )
        slots.put(slot)
        print(f"{arm}, seed {seed}: {_load(arm, seed, minutes, out)['foreground_dice']:.4f}", flush=True)

    with ThreadPoolExecutor(slots.qsize()) as pool:
        list(pool.map(work, missing))


def _train_one(arm: str, seed: int, minutes: float, out: Path) -> None:
    from trainer_module.trainer import Job, train

    config = part_of(config_of(arm, seed, minutes), TrainerConfig)
    name = _result_file(arm, seed, minutes, out).stem
    patterns = [[str(out / "tiles" / f"{split}.tfrecord.gz")] for split in (features.SPLIT_TRAIN, features.SPLIT_EVAL)]
    trained = train(Job(patterns[0], patterns[1], out / "logs" / name, out / "checkpoints" / name), config)
    counts = _test_counts(trained.model, config, out)
    result = {
        "foreground_dice": float(scores.foreground_dice(counts)),
        "dice": scores.dice(counts).tolist(),
        "epochs": trained.epochs,
        "seconds": trained.seconds,
        "parameters": trained.model.count_params(),
    }
    _result_file(arm, seed, minutes, out).write_text(json.dumps(result))


def _test_counts(model: Any, config: TrainerConfig, out: Path) -> np.ndarray:
    """Counts of the test split at each image's own size, by the signature that the Evaluator calls."""
    import tensorflow as tf

    from dataset.manifest import versions
    from trainer_module.export import SegmentationModule

    module = SegmentationModule(model, config)
    records = list(_records(versions(out / "records")[1] / features.SPLIT_TEST))
    return module.evaluate(tf.constant(records))[features.OUTPUT_COUNTS].numpy().sum(axis=0)


def _result_file(arm: str, seed: int, minutes: float, out: Path) -> Path:
    name = "".join(c if c.isalnum() else "-" for c in arm)
    return out / f"{name}-{minutes:g}min-seed{seed}.json"


def _load(arm: str, seed: int, minutes: float, out: Path) -> dict[str, Any]:
    return json.loads(_result_file(arm, seed, minutes, out).read_text())


def _table(arms: Sequence[str], seeds: int, minutes: float, out: Path) -> Table:
    classes = [c.name for c in load_config(PRESET).classes[1:]]
    title = f"foreground Dice on test, {minutes:g} minutes of training each"
    table = Table("arm", "mean", *(f"seed {s}" for s in range(seeds)), *classes, "epochs", "parameters", title=title)
    for arm in arms:
        results = [_load(arm, seed, minutes, out) for seed in range(seeds)]
        values = [result["foreground_dice"] for result in results]
        dice = np.mean([result["dice"][1:] for result in results], axis=0)
        row = [f"{value:.3f}" for value in (np.mean(values), *values, *dice)]
        table.add_row(arm, *row, str(results[0]["epochs"]), f"{results[0]['parameters']:,}")
    return table


if __name__ == "__main__":
    main()
