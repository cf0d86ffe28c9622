"""Training on this machine's GPU by precision and XLA, and how far a GPU's answers are from a processor's.

    .venv/bin/python -m benchmarks.devices
    .venv/bin/python -m benchmarks.devices --images 24     whether it runs

Each row is a process of its own that trains a network like the preset's on surfaces that are drawn: seconds of the
first epoch, with tracing and compiling, and images a second of the median epoch after it. One export, trained for some
steps, answers the same images on the GPU and without it. On a machine without a GPU there is the first row alone, and
nothing is compared.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.processes import told_by
from benchmarks.sources import steel_classes
from flexunet.core import features
from flexunet.core.config.load import config_from
from flexunet.core.config.section import part_of
from flexunet.core.config.train import TrainerConfig

SIZE: Final = 128
EPOCHS: Final = 6
SEED: Final = 7
# Precision, XLA and the images of a batch; `auto` is what a run takes.
MODES: Final = tuple(
    (*mode, batch)
    for batch in (8, 64)
    for mode in (("float32", "off"), ("float32", "on"), ("mixed_bfloat16", "off"), ("auto", "auto"))
)
_ANSWERED: Final = 32


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=384, help="Images that are trained on.")
    parser.add_argument("--train", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--export", help=argparse.SUPPRESS)
    parser.add_argument("--answer", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if arguments.train:
        precision, xla, batch = arguments.train
        print(json.dumps(_train(_config(precision, xla, int(batch)), arguments.images)))
    elif arguments.export:
        print(json.dumps(_export(Path(arguments.export))))
    elif arguments.answer:
        exported, out, device = arguments.answer
        print(json.dumps(_answer(exported, out, device)))
    else:
        _compare(arguments.images, Console(width=100))


def _compare(images: int, console: Console) -> None:
    with tempfile.TemporaryDirectory() as directory:
        exported = Path(directory) / "export"
        gpus = told_by("benchmarks.devices", "--export", exported)
        table = Table("precision", "XLA", "batch", "first epoch", "then", box=None)
        for precision, xla, batch in MODES if gpus else MODES[:1]:
            if batch <= images:
                told = told_by("benchmarks.devices", "--images", images, "--train", precision, xla, batch)
                then = f"{told['rate']:,.0f} images/s"
                table.add_row(told["precision"], told["xla"], str(batch), f"{told['first']:.1f} s", then)
        console.print(f"GPUs: {', '.join(gpus) or 'none'}", table)
        if gpus:
            console.print(_difference(exported, Path(directory)))


def _config(precision: str, xla: str, batch: int) -> TrainerConfig:
    values: dict[str, object] = {
        "classes": steel_classes(),
        "image": {"height": SIZE, "width": SIZE},
        "model": {"num_layers": 5, "base_filters": 12, "normalization": "batch"},
        "train": {"loss": "cross_entropy_dice", "precision": precision, "jit_compile": xla, "batch_size": batch},
    }
    return part_of(config_from(values, "benchmark"), TrainerConfig)


def _surfaces(first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 `[count, SIZE, SIZE, 3]` and class ids uint8 `[count, SIZE, SIZE]`."""
    from flexunet.dataset.synthetic import generate_surface

    drawn = [generate_surface(SEED, index, SIZE) for index in range(first, first + count)]
    pixels, class_ids = (np.stack(part) for part in zip(*drawn, strict=True))
    return pixels, class_ids


def _train(config: TrainerConfig, images: int) -> dict[str, object]:
    import keras

    from trainer_module import devices
    from trainer_module.trainer import compiled_model

    seconds: list[float] = []

    # Whole epochs, not those of benchmarks.training up to the last step: a GPU goes on after that has returned.
    class EpochClock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
            self._start = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            seconds.append(time.perf_counter() - self._start)

    policy, size = devices.dtype_policy(config.train), config.train.batch_size
    with devices.precision(policy):
        model = compiled_model(config)
    pixels, class_ids = _surfaces(1, images // size * size)
    model.fit(pixels, class_ids, size, epochs=EPOCHS, verbose=0, callbacks=[EpochClock()])
    xla = "on" if devices.uses_xla(config.train) else "off"
    rate = len(pixels) / statistics.median(seconds[1:])
    return {"precision": policy, "xla": xla, "first": seconds[0], "rate": rate}


def _export(directory: Path) -> list[str]:
    """An export that was trained for some steps; returns the GPUs by name."""
    import tensorflow as tf

    from trainer_module.export import export_model
    from trainer_module.trainer import compiled_model

    config = _config("float32", "off", 8)
    model = compiled_model(config)
    model.fit(*_surfaces(1, 64), 8, epochs=2, verbose=0)
    export_model(model, config, {}, directory)
    gpus = tf.config.list_physical_devices("GPU")
    return [str(tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)) for gpu in gpus]


def _answer(exported: str, out: str, device: str) -> None:
    """Writes class ids and probabilities of images that were not trained on."""
    import tensorflow as tf

    if device == "CPU":
        tf.config.set_visible_devices([], "GPU")
    signatures = tf.saved_model.load(exported).signatures
    pixels = tf.constant(_surfaces(10_001, _ANSWERED)[0])
    ids = signatures[features.SIGNATURE_PIXELS](pixels=pixels)[features.OUTPUT_CLASS_IDS]
    probabilities = signatures[features.SIGNATURE_PROBABILITIES](pixels=pixels)[features.OUTPUT_PROBABILITIES]
    np.savez(out, ids=ids.numpy(), probabilities=probabilities.numpy())


def _difference(exported: Path, directory: Path) -> str:
    """The answers of the GPU beside those without it, in words."""
    answers = []
    for device in ("GPU", "CPU"):
        out = directory / f"{device}.npz"
        told_by("benchmarks.devices", "--answer", exported, out, device)
        with np.load(out, allow_pickle=False) as file:
            answers.append((file["ids"], file["probabilities"]))
    (ids, probabilities), (cpu_ids, cpu_probabilities) = answers
    best = np.sort(cpu_probabilities, axis=-1)
    other, gap = ids != cpu_ids, best[..., -1] - best[..., -2]
    return (
        f"GPU to CPU, {len(ids)} images: {np.count_nonzero(other):,} of {other.size:,} pixels have another class, "
        f"where the two best are {gap[other].max(initial=0.0):.4f} apart at most; "
        f"probabilities differ by {np.abs(probabilities - cpu_probabilities).max():.4f} at most"
    )


if __name__ == "__main__":
    main()
