"""Averages over steps: right from the first epoch, however few the steps."""

import csv
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from flexunet.core.config.section import part_of
from flexunet.core.config.train import TrainConfig, TrainerConfig
from trainer_module import data
from trainer_module.averages import averaging_callbacks, decay, statistics_momentum, warn_of_few_steps
from trainer_module.data import sample_batches, tiles_dataset
from trainer_module.normalization import BatchNormalization
from trainer_module.optimization import make_optimizer
from trainer_module.trainer import Job, train


def test_the_memory_is_a_quarter_of_the_steps_until_it_is_the_longest() -> None:
    assert [decay(step, 0.99) for step in (0, 1, 5)] == pytest.approx([0, 1 / 5, 5 / 9])
    assert 1 / (1 - decay(200, 0.99)) == pytest.approx(51)
    assert [decay(step, 0.9) for step in (36, 37, 1000)] == pytest.approx([0.9, 0.9, 0.9])
    assert statistics_momentum(TrainConfig(batch_norm_momentum=0.8), 0) == 0.8
    assert statistics_momentum(TrainConfig(), 10_000) == 0.99


@pytest.mark.parametrize(
    ("momentum", "steps", "words"),
    [
        (0.99, 90, r"of the statistics before the first step 40 % are left after all 90 steps: leave it unset"),
        (None, 12, r"12 steps to learn its statistics from, expected at least 20: raise train.epochs"),
        (None, 90, ""),
        (0.9, 90, ""),
    ],
)
def test_too_few_steps_are_said(
    momentum: float | None, steps: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_few_steps(TrainConfig(batch_norm_momentum=momentum), steps)
    [message] = caplog.messages or [""]
    assert words in message if words else not message


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="moving statistics"),
        pytest.param({"ema_decay": 0.99}, id="averaged weights", marks=pytest.mark.slow),
    ],
)
def test_few_images_are_learnt_in_few_steps(
    tmp_path: Path, write_tiles: Any, make_config: Any, settings: dict[str, Any]
) -> None:
    """With Keras' own momentum, 0.99, this training stood at 0.06 after one epoch and at 0.59 after fifteen."""
    write_tiles(tmp_path / "train.gz", 48)
    write_tiles(tmp_path / "eval.gz", 16, seed=1)
    recipe = {"epochs": 15, "batch_size": 8, "preview_images": 0, **settings}
    config = part_of(make_config(model={"normalization": "batch"}, train=recipe), TrainerConfig)
    logs = tmp_path / "logs"
    train(Job([str(tmp_path / "train.gz")], [str(tmp_path / "eval.gz")], logs, tmp_path / "checkpoints"), config)
    dice = [float(row["val_foreground_dice"]) for row in csv.DictReader((logs / "history.csv").open())]
    assert dice[0] > 0.5 and dice[-1] > 0.95


def fit_normalized(ema_decay: float | None, sample: Any, epochs: int = 1) -> keras.Model:
    """A convolution and its normalization after `epochs` of one step."""
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Conv2D(2, 1), BatchNormalization()]
    model: Any = keras.Sequential([keras.Input((4, 4, 3)), *layers])
    config = TrainConfig(epochs=epochs, learning_rate=0.1, schedule="constant", ema_decay=ema_decay)
    model.compile(make_optimizer(config), "mse")
    x = np.random.default_rng(1).uniform(size=(8, 4, 4, 3)).astype(np.float32)
    callbacks = averaging_callbacks(config, 1, lambda: sample)
    model.fit(x, x[..., :2], epochs=epochs, verbose=0, callbacks=callbacks, validation_data=(x, x[..., :2]))
    return model


def test_averaged_weights_have_statistics_of_their_own() -> None:
    """Those of a normalization behind a convolution of one pixel, as NumPy computes them."""
    pixels = np.random.default_rng(2).uniform(0, 9, (3, 4, 4, 4, 3)).astype(np.float32)
    model = fit_normalized(0.5, tf.data.Dataset.from_tensor_slices(pixels), epochs=3)
    convolution, normalization = model.layers
    kernel, bias = convolution.get_weights()
    batches = (pixels @ kernel[0, 0] + bias).reshape(3, -1, 2)
    np.testing.assert_allclose(normalization.moving_mean, batches.mean(1).mean(0), rtol=1e-5)
    np.testing.assert_allclose(normalization.moving_variance, batches.var(1).mean(0), rtol=1e-4)


def test_the_weights_that_are_kept_are_the_average() -> None:
    def weights(steps: int, ema_decay: float | None) -> np.ndarray:
        return fit_normalized(ema_decay, tf.data.Dataset.from_tensors(np.ones((1, 4, 4, 3))), steps).get_weights()[0]

    first, second, third = (weights(steps, None) for steps in (1, 2, 3))
    np.testing.assert_allclose(weights(1, 0.3), first, rtol=1e-5)
    # Of the average a fifth is kept in the second step, and in the third the longest decay.
    expected = 0.3 * (0.2 * first + 0.8 * second) + 0.7 * third
    np.testing.assert_allclose(weights(3, 0.3), expected, rtol=1e-4)
    assert np.abs(expected - third).max() > 1e-3


def test_moving_statistics_and_decays_are_no_weights_of_their_own() -> None:
    model = fit_normalized(0.5, tf.data.Dataset.from_tensors(np.ones((1, 4, 4, 3))))
    assert [weight.name for weight in model.weights] == [
        "kernel",
        "bias",
        "gamma",
        "beta",
        "moving_mean",
        "moving_variance",
    ]


def test_a_sample_is_spread_over_the_images_in_whole_batches(
    tmp_path: Path, write_tiles: Any, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A tile comes about where it stands in the records.
    monkeypatch.setattr(data, "_SHUFFLE_TILES", 8)
    write_tiles(tmp_path / "train.gz", 100)
    config = part_of(make_config(train={"batch_size": 5}), TrainerConfig)
    sample = sample_batches([str(tmp_path / "train.gz")], 100, config)
    tiles = tiles_dataset([str(tmp_path / "train.gz")], config).as_numpy_iterator()
    index = {pixels.tobytes(): number for number, (pixels, _) in enumerate(tiles)}
    found = [[index[pixels.tobytes()] for pixels in batch] for batch in sample.as_numpy_iterator()]
    assert [len(batch) for batch in found] == [5] * 6
    each = {number for batch in found for number in batch}
    assert len(each) == 30 and {number // 25 for number in each} == {0, 1, 2, 3}
