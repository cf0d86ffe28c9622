"""Optimizers, and the learning rate as a function of what is done of the work."""

from typing import Literal

import keras
import numpy as np
import pytest

from flexunet.core.config.train import TrainConfig
from trainer_module.clock import Clock
from trainer_module.optimization import RateSchedule, cooldown, cosine, make_optimizer, warmup


def test_half_a_cosine_a_cooldown_and_a_warm_up() -> None:
    assert [cosine(p) for p in (0, 1 / 3, 0.5, 1, 2)] == pytest.approx([1, 0.75, 0.5, 0, 0])
    assert [cooldown(p, 0.4) for p in (0, 0.6, 0.8, 1, 2)] == pytest.approx([1, 1, 0.5, 0, 0])
    assert [warmup(step, 4) for step in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    assert warmup(0, 0) == 1


class Rates(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.rates: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.rates.append(float(self.model.optimizer.learning_rate.value))


def rates(config: TrainConfig, clock: Clock) -> list[float]:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(make_optimizer(config), "mse")
    seen = Rates()
    x = np.ones((4, 1), np.float32)
    model.fit(x, x, batch_size=2, epochs=config.epochs, verbose=0, callbacks=[RateSchedule(config, 2, clock), seen])
    return seen.rates


def test_the_schedule_ends_with_the_epochs() -> None:
    config = TrainConfig(epochs=4, learning_rate=1.0, schedule="cosine", warmup_epochs=1)
    expected = [0.5 * 1, 0.5 * (1 + np.cos(np.pi / 8)), *(0.5 * (1 + np.cos(np.pi * step / 8)) for step in range(2, 8))]
    assert rates(config, Clock()) == pytest.approx(expected, rel=1e-5)


def test_a_cooldown_is_constant_and_then_linear() -> None:
    config = TrainConfig(epochs=5, learning_rate=1.0, schedule="cooldown", cooldown=0.4)
    assert rates(config, Clock()) == pytest.approx([1] * 7 + [0.75, 0.5, 0.25], rel=1e-5)


def test_the_schedule_ends_with_the_seconds_if_they_end_first() -> None:
    clock = Clock()
    clock.start(spent=75.0)
    config = TrainConfig(epochs=1000, learning_rate=1.0, schedule="cosine", max_seconds=100.0)
    found = rates(config.model_copy(update={"epochs": 1}), clock)
    assert found[0] == pytest.approx(0.5 * (1 + np.cos(0.75 * np.pi)), abs=0.02)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_decay_is_of_kernels_and_neither_of_offsets_nor_of_scales(name: Literal["adamw", "muon"]) -> None:
    config = TrainConfig(optimizer=name, weight_decay=0.1, learning_rate=0.1)
    model = keras.Sequential([keras.Input((4, 4, 2)), keras.layers.Conv2D(3, 1, bias_initializer="ones")])
    model.add(keras.layers.GroupNormalization(1))
    model.compile(make_optimizer(config), "mse")
    before = [np.asarray(v) for v in model.trainable_variables]
    optimizer = model.optimizer
    optimizer.apply([keras.ops.zeros_like(v) for v in model.trainable_variables], model.trainable_variables)
    after = [np.asarray(v) for v in model.trainable_variables]
    np.testing.assert_allclose(after[0], before[0] * (1 - 0.1 * 0.1), rtol=1e-5)
    for old, new in zip(before[1:], after[1:], strict=True):
        np.testing.assert_array_equal(old, new)


def test_muon_steps_equally_in_all_directions_that_a_gradient_has() -> None:
    model = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.Conv2D(6, 3), keras.layers.Conv2DTranspose(5, 2)])
    model.compile(make_optimizer(TrainConfig(optimizer="muon", learning_rate=0.1)), "mse")
    before = [np.asarray(v) for v in model.trainable_variables]
    # Directions that differ by a factor of a hundred.
    draws = np.random.default_rng(0)
    gradients = [draws.normal(size=v.shape) * np.geomspace(1, 100, v.shape[-1]) for v in before]
    model.optimizer.apply([g.astype(np.float32) for g in gradients], model.trainable_variables)
    steps = [old - np.asarray(new) for old, new in zip(before, model.trainable_variables, strict=True)]
    for step, gradient in zip(steps[::2], gradients[::2], strict=True):
        step, gradient = (array.reshape(-1, array.shape[-1]) for array in (step, gradient))
        left, _, right = np.linalg.svd(gradient, full_matrices=False)
        along = np.diag(left.T @ step @ right.T) / (0.1 * 0.2 * np.sqrt(max(step.shape)))
        assert along.min() > 0.6 and along.max() < 1.25
        assert np.linalg.norm(step) == pytest.approx(
            np.linalg.norm(along) * 0.1 * 0.2 * np.sqrt(max(step.shape)), rel=1e-2
        )
    for step, gradient in zip(steps[1::2], gradients[1::2], strict=True):
        np.testing.assert_allclose(step, 0.1 * 0.3 * np.sign(gradient), rtol=1e-3)


@pytest.mark.parametrize("shape", [(3, 3, 20, 10), (2, 2, 5, 40), (3, 3, 3, 10)])
def test_muons_kernels_are_those_of_keras_own_iteration(shape: tuple[int, ...]) -> None:
    """Kernels whose directions differ by a factor of ten thousand; in float32 by another way."""
    optimizer = make_optimizer(TrainConfig(optimizer="muon"))
    draws = np.random.default_rng(0).normal(size=shape) * np.geomspace(1, 1e4, shape[-1])
    kernel = draws.astype(np.float32)
    found = np.asarray(optimizer.zeropower_via_newtonschulz5(kernel, 5))
    keras_own = keras.optimizers.Muon.zeropower_via_newtonschulz5
    expected = np.asarray(keras_own(optimizer, kernel.reshape(-1, shape[-1]), 5)).reshape(shape)
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


def test_adam_is_the_seeds() -> None:
    optimizer = make_optimizer(TrainConfig(learning_rate=6e-5, clipvalue=0.5))
    assert type(optimizer) is keras.optimizers.Adam
    assert (optimizer.clipvalue, optimizer.use_ema, optimizer.weight_decay) == (0.5, False, None)
    assert float(optimizer.learning_rate) == pytest.approx(6e-5)
