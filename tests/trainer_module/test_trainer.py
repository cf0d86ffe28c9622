"""One training: the same again, on after a kill, from a base model, in bounded memory."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from examples import tile, write_examples
from PIL import Image
from processes import ENVIRONMENT, ROOT
from waiting import epochs_in, wait_until

from flexunet.core.config.section import part_of
from flexunet.core.config.train import TrainerConfig
from trainer_module import devices
from trainer_module.checkpoint import checkpoint_key
from trainer_module.encoder import encoder_layers
from trainer_module.export import export_model
from trainer_module.trainer import Job, Trained, compiled_model, train

RECIPE = {
    "model": {"normalization": "batch", "dropout": 0.1},
    "augment": {"symmetries": True, "zoom": 0.3, "noise": 10.0},
    "train": {
        "epochs": 4,
        "batch_size": 4,
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "learning_rate": 0.01,
        "schedule": "cosine",
        "plateau_patience": 0,
        "ema_decay": 0.8,
        "preview_images": 0,
        "loss": "cross_entropy_dice",
    },
}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory, write_tiles: Any) -> Path:
    folder = tmp_path_factory.mktemp("tiles")
    write_tiles(folder / "train.gz", 22)
    write_tiles(folder / "eval.gz", 6, seed=1)
    return folder


@pytest.fixture
def run(tiles: Path, tmp_path: Path, make_config: Any) -> Callable[..., Trained]:
    def run(name: str, base_model: str = "", callbacks: Any = (), **sections: Any) -> Trained:
        merged = {key: {**value, **sections.get(key, {})} for key, value in RECIPE.items()}
        config = part_of(make_config(**merged), TrainerConfig)
        return trained_in(tmp_path, name, config, tiles, base_model=base_model, callbacks=callbacks)

    return run


def trained_in(folder: Path, name: str, config: TrainerConfig, tiles: Path, **job: Any) -> Trained:
    patterns = [str(tiles / "train*.gz")], [str(tiles / "eval*.gz")]
    return train(Job(*patterns, folder / name, folder / "checkpoints", "code", **job), config)


@dataclass(frozen=True)
class Recipe:
    """A training as RECIPE has it, but with pictures; several tests look at it, and at its folder of logs."""

    trained: Trained
    weights: list[bytes]
    logs: Path


@pytest.fixture(scope="module")
def recipe(tiles: Path, tmp_path_factory: pytest.TempPathFactory, make_config: Any) -> Recipe:
    folder = tmp_path_factory.mktemp("recipe")
    settings = {**RECIPE, "train": {**RECIPE["train"], "preview_images": 2}}
    trained = trained_in(folder, "recipe", part_of(make_config(**settings), TrainerConfig), tiles)
    return Recipe(trained, weights(trained), folder / "recipe")


def weights(trained: Trained) -> list[bytes]:
    return [np.asarray(w).tobytes() for w in trained.model.get_weights()]


def test_the_same_again_gives_the_same_bits_and_another_seed_others(
    recipe: Recipe, run: Callable[..., Trained]
) -> None:
    assert recipe.trained.epochs == 4
    assert weights(run("second")) == recipe.weights
    assert weights(run("third", train={"seed": 1})) != recipe.weights


def test_pictures_of_training_are_left(recipe: Recipe) -> None:
    previews = recipe.logs / "previews"
    assert sorted(p.name for p in previews.glob("*.png")) == [
        *[f"epoch-000{epoch}.png" for epoch in (1, 2, 3, 4)],
        "images.png",
        "truth.png",
    ]
    colors = {tuple(color) for color in np.asarray(Image.open(previews / "epoch-0004.png")).reshape(-1, 3)}
    assert Image.open(previews / "epoch-0004.png").size == (64, 32)
    assert colors <= {(0, 0, 0), (0, 0, 255), (0, 255, 0), (255, 0, 0)}
    augmented = Image.open(recipe.logs / "augmented.png")
    assert augmented.size == (6 * 32, 4 * 2 * 32)
    tags = {
        value.tag
        for file in previews.glob("events*")
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    }
    assert tags == {"images", "truth", "epoch", "augmented"}


@pytest.mark.parametrize(
    ("precision", "optimizer"),
    [pytest.param("mixed_bfloat16", "adamw", marks=pytest.mark.slow), ("mixed_float16", "muon")],
)
def test_mixed_precision_trains_and_what_is_exported_is_float32(
    run: Callable[..., Trained], precision: str, optimizer: str
) -> None:
    mixed = {"precision": precision, "optimizer": optimizer, "hardest_pixels": 0.25, "deterministic": "off"}
    trained = run("mixed", train=mixed)
    assert all(np.isfinite(w).all() for w in trained.model.get_weights())
    assert {layer.compute_dtype for layer in trained.model.layers} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"


def test_a_warm_start_begins_with_the_base_models_weights(
    recipe: Recipe, run: Callable[..., Trained], tmp_path: Path, make_config: Any
) -> None:
    base = recipe.trained
    config = part_of(make_config(model=RECIPE["model"]), TrainerConfig)
    export_model(base.model, config, {}, tmp_path / "export")
    _make_of_another_version(tmp_path / "export" / "assets.extra" / "config.json")
    # A rate of almost 0 and an average that forgets nothing: what comes out is what went in.
    still = {"learning_rate": 1e-12, "epochs": 1, "ema_decay": None, "weight_decay": 0.0, "optimizer": "adam"}
    begun = run("warm", str(tmp_path / "export"), train=still)
    for variable, expected in zip(begun.model.trainable_variables, base.model.trainable_variables, strict=True):
        np.testing.assert_allclose(variable, expected, atol=1e-6)
    with pytest.raises(
        ValueError, match=r"train.warm_start: .*export has other layers .* set train.warm_start = false"
    ):
        run("other", str(tmp_path / "export"), model={"base_filters": 4}, train=still)


def _make_of_another_version(file: Path) -> None:
    """Settings that do not matter here may be unknown or missing."""
    exported = json.loads(file.read_text())
    del exported["augment"]
    exported["train"]["of_later"] = exported["model"]["of_later"] = 1
    file.write_text(json.dumps(exported))


def test_a_step_leaves_a_frozen_encoders_weights_and_moves_the_decoders(make_config: Any) -> None:
    layers = {"encoder": "efficientnetv2-b0", "num_layers": 5, "base_filters": 4, "normalization": "batch"}
    frozen = {"freeze_encoder": True, "encoder_weights": "not read here"}
    model = compiled_model(part_of(make_config(model=layers, train=frozen), TrainerConfig))
    # A step as it is, which needs no graph.
    model.run_eagerly = True
    before = {layer.name: layer.get_weights() for layer in model.layers if layer.weights}
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (4, 32, 32, 3)).astype(np.float32)
    model.train_on_batch(pixels, generator.integers(0, 4, (4, 32, 32)).astype(np.uint8))
    moved = {
        name for name, was in before.items() if not all(map(np.array_equal, was, model.get_layer(name).get_weights()))
    }
    encoder = {layer.name for layer in encoder_layers(model, "efficientnetv2-b0") if layer.weights}
    assert moved == before.keys() - encoder and {"stem_bn", "block6h_project_conv"} <= encoder
    assert {"decoder4_up", "decoder0_b_norm", "head"} <= moved


def test_a_training_that_diverges_is_an_error_in_plain_words(run: Callable[..., Trained]) -> None:
    diverging = {"learning_rate": 1e30, "ema_decay": None, "loss": "cross_entropy"}
    with pytest.raises(ValueError, match=r"training diverged: \d+ weights are not finite.*lower train.learning_rate"):
        run("diverged", train=diverging, model={"normalization": "none"})


def test_stopped_by_the_clock_it_keeps_the_average(run: Callable[..., Trained]) -> None:
    """Keras' `fit` puts the weights that are not averaged back when it ends; the best ones must be restored after."""
    constant = {"schedule": "constant"}
    stopped = run("stopped", train={**constant, "max_seconds": 1e-6})
    assert stopped.epochs == 1
    assert weights(stopped) == weights(run("whole", train={**constant, "epochs": 1}))


def test_an_eval_split_without_defects_steers_nothing(tiles: Path, tmp_path: Path, make_config: Any) -> None:
    unlabelled = tile(np.zeros((1, 32, 32, 3), np.uint8), np.full((1, 32, 32), 255, np.uint8))
    write_examples(tmp_path / "eval.gz", [unlabelled])
    job = Job([str(tiles / "train.gz")], [str(tmp_path / "eval.gz")], tmp_path / "logs", tmp_path / "checkpoints")
    with pytest.raises(ValueError, match=r"no pixel of `eval` is labelled as a defect"):
        train(job, part_of(make_config(**RECIPE), TrainerConfig))


def test_too_few_images_are_named(run: Callable[..., Trained]) -> None:
    with pytest.raises(ValueError, match=r"22 training and 6 eval tiles, expected at least train.batch_size \(23\)"):
        run("few", train={"batch_size": 23})


# A process of its own, which can be killed; prints a hash of the weights.
SCRIPT = """
import hashlib, json, logging, sys
from pathlib import Path
import numpy as np
from benchmarks.memory import peak_mebibytes
from flexunet.core.config.train import TrainerConfig
from trainer_module.trainer import Job, train

logging.basicConfig(level=logging.INFO)
config, tiles, logs, checkpoints, code = sys.argv[1:]
job = Job([f"{tiles}/train.gz"], [f"{tiles}/eval.gz"], Path(logs), Path(checkpoints), code)
trained = train(job, TrainerConfig.model_validate_json(config))
digest = hashlib.sha256(b"".join(np.asarray(w).tobytes() for w in trained.model.get_weights())).hexdigest()
print(json.dumps({"weights": digest, "mebibytes": peak_mebibytes()}))
"""


def process(config: TrainerConfig, tiles: Path, logs: Path, checkpoints: Path, code: str = "code") -> Any:
    arguments = [config.model_dump_json(), str(tiles), str(logs), str(checkpoints), code]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def key_of(config: TrainerConfig, tiles: Path) -> str:
    mode = devices.computing_mode(config.train, tf.distribute.get_strategy())
    files = [str(tiles / "train.gz"), str(tiles / "eval.gz")]
    return checkpoint_key([config.training_json(), "code", "", mode, ""], files)


def result(started: Any) -> tuple[dict[str, Any], str]:
    output, errors = started.communicate()
    assert started.returncode == 0, errors
    return json.loads(output.splitlines()[-1]), errors


@pytest.mark.slow
@pytest.mark.parametrize(("schedule", "optimizer"), [("cosine", "adamw"), ("plateau", "muon")])
def test_killed_in_the_middle_it_goes_on_as_if_it_had_not_been(
    run: Callable[..., Trained], tiles: Path, tmp_path: Path, make_config: Any, schedule: str, optimizer: str
) -> None:
    """Bit for bit: optimizer, schedule, averaged weights, dropout, order and changes of the images."""
    changed = {"schedule": schedule, "optimizer": optimizer, "epochs": 6}
    config = part_of(make_config(**{**RECIPE, "train": {**RECIPE["train"], **changed}}), TrainerConfig)
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / "stale.npz").write_bytes(b"of an earlier configuration")
    started = process(config, tiles, tmp_path / "killed", checkpoints)
    history = tmp_path / "killed" / "history.csv"
    wait_until(lambda: epochs_in(history) >= 2, lambda: started.poll() is not None)
    started.send_signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    [left] = [path for path in checkpoints.iterdir() if path.suffix == ".npz"]

    # In this process, which trained other models before.
    assert left.stem == key_of(config, tiles)
    assert_goes_on(run, tmp_path, changed)


def assert_goes_on(run: Callable[..., Trained], folder: Path, changed: dict[str, Any]) -> None:
    """A training of six epochs, begun in `folder`, ends as one that nothing disturbs."""
    resumed = run("resumed", train=changed)
    assert 1 <= resumed.checkpoint.first_epoch < 6
    resumed.checkpoint.discard()
    assert list((folder / "checkpoints").iterdir()) == []
    rows = (folder / "resumed" / "history.csv").read_text().splitlines()
    undisturbed = run("undisturbed", train=changed)
    assert undisturbed.checkpoint.first_epoch == 0
    assert weights(resumed) == weights(undisturbed)
    assert rows == (folder / "undisturbed" / "history.csv").read_text().splitlines()


class InterruptIn(keras.callbacks.Callback):
    """Ctrl-C in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch, self.now = epoch, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.now = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (self.now, batch) == (self.epoch, 2):
            raise KeyboardInterrupt


def test_interrupted_in_an_epoch_it_goes_on_as_if_it_had_not_been(run: Callable[..., Trained], tmp_path: Path) -> None:
    """What a kill at any moment is to show, at one, with the optimizer of the preset."""
    changed = {"optimizer": "muon", "epochs": 6}
    with pytest.raises(KeyboardInterrupt):
        run("stopped", train=changed, callbacks=[InterruptIn(3)])
    assert_goes_on(run, tmp_path, changed)


def test_a_checkpoint_that_cannot_be_read_is_not_resumed(
    run: Callable[..., Trained], tiles: Path, tmp_path: Path, make_config: Any, caplog: pytest.LogCaptureFixture
) -> None:
    config = part_of(make_config(**RECIPE), TrainerConfig)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / f"{key_of(config, tiles)}.npz").write_bytes(b"half a")
    assert run("anew", train={"epochs": 4}).checkpoint.first_epoch == 0
    assert "training begins anew" in caplog.text


def test_configuration_code_and_data_each_have_a_checkpoint_of_their_own(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(b"1234")
    first = checkpoint_key(["config", "code"], [str(data)])
    assert first == checkpoint_key(["config", "code"], [str(data)])
    assert first != checkpoint_key(["config", "edited"], [str(data)])
    assert first != checkpoint_key(["changed", "code"], [str(data)])
    os.utime(data, ns=(1, 1))
    assert first != checkpoint_key(["config", "code"], [str(data)])


@pytest.mark.slow
def test_memory_stays_flat_without_cache_and_in_its_limit_with_one(
    tmp_path: Path, write_tiles: Any, make_config: Any
) -> None:
    """500 and 5,000 tiles of 64x64, 8 and 80 MB decoded."""

    def peak(count: int, cache_megabytes: int) -> float:
        config = make_config(
            image={"height": 64, "width": 64},
            model={"base_filters": 1},
            train={"epochs": 2, "batch_size": 50, "cache_megabytes": cache_megabytes, "preview_images": 0},
        )
        logs = tmp_path / f"{count}-{cache_megabytes}"
        started = process(part_of(config, TrainerConfig), tmp_path / str(count), logs, logs / "checkpoints")
        return result(started)[0]["mebibytes"]

    for count in (500, 5000):
        write_tiles(tmp_path / str(count) / "train.gz", count, size=64)
        write_tiles(tmp_path / str(count) / "eval.gz", 10, size=64)
    few, many, cached = peak(500, 0), peak(5000, 0), peak(5000, 100)
    # A shuffle holds 1,024 tiles, 16 MB; all of them would be 80.
    assert many < min(1.2 * few, few + 50)
    assert 30 < cached - many < 100 + 30
