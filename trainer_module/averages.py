"""Averages over training steps: batch normalization's moving statistics, and the weights that `ema_decay` averages.

A constant decay forgets the first steps only after hundreds of others, and a short training is measured before. Here
the memory is a quarter of the steps so far until it is as long as the constant decay's: polynomial-decay averaging,
Shamir & Zhang 2013, arXiv:1212.1824. Averaged weights have other statistics than any step's: these are measured anew.
"""

import logging
from collections.abc import Callable
from typing import Any, Final

import keras
import tensorflow as tf

from flexunet.core.config.train import TrainConfig
from transform_module.graphs import traced_once

# Of Shamir & Zhang: the memory is (steps + 3) / 4 steps. Their own experiments use 3.
_ETA: Final = 3
# Keras' own, a memory of a hundred steps, which ours reaches after four hundred.
_LONGEST: Final = 0.99
# What is left of the first values with a constant momentum: below this, statistics are those of training.
_LEFT_OVER: Final = 0.05
# With fewer, statistics are those of a handful of batches, whatever the momentum.
_FEW_STEPS: Final = 20

logger = logging.getLogger("flexunet.train")


def decay(step: int, longest: float) -> float:
    """Share of the average that is kept at `step`, counted from 0: nothing at first, at most `longest`."""
    return min(longest, 1 - (_ETA + 1) / (step + 1 + _ETA))


def statistics_momentum(config: TrainConfig, step: int) -> float:
    """Momentum of batch normalization's moving statistics at `step`, counted from 0."""
    return decay(step, _LONGEST) if config.batch_norm_momentum is None else config.batch_norm_momentum


def warn_of_few_steps(config: TrainConfig, steps: int) -> None:
    """Says it where a training of so many steps ends before its moving statistics are those of its images."""
    momentum = config.batch_norm_momentum
    if momentum is not None and momentum**steps > _LEFT_OVER:
        logger.warning(
            "train.batch_norm_momentum is %g, and of the statistics before the first step %.0f %% are left after all "
            "%d steps: leave it unset, and it follows the steps",
            momentum,
            100 * momentum**steps,
            steps,
        )
    elif steps < _FEW_STEPS:
        logger.warning(
            "batch normalization has %d steps to learn its statistics from, expected at least %d: raise train.epochs, "
            "lower train.batch_size or set model.normalization = 'group'",
            steps,
            _FEW_STEPS,
        )


def averaging_callbacks(
    config: TrainConfig, steps_per_epoch: int, sample: Callable[[], tf.data.Dataset]
) -> list[keras.callbacks.Callback]:
    """Those that must stand before all others: they bring the weights into the model that the others measure."""
    swap = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if config.ema_decay is not None else []
    return [*swap, Averages(config, steps_per_epoch, sample)]


class Averages(keras.callbacks.Callback):
    """Sets both decays before each step, and measures the statistics of averaged weights before each evaluation.

    Stands behind SwapEMAWeights, which brings the averaged weights in. What it measures is restored with the best
    weights, and so exported. Statistics of an evaluation may stay: training normalizes by those of its batches.
    """

    def __init__(self, config: TrainConfig, steps_per_epoch: int, sample: Callable[[], tf.data.Dataset]) -> None:
        """`sample` gives batches of training images, uint8 `[N, height, width, 3]`; asked only for averaged weights."""
        super().__init__()
        self._config, self._steps, self._sample = config, steps_per_epoch, sample

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        model: Any = self.model
        self._strategy = model.distribute_strategy
        self._normalizations = [
            # Frozen ones have the statistics of elsewhere.
            x
            for x in model.layers
            if isinstance(x, keras.layers.BatchNormalization) and x.trainable
        ]
        self._measures = self._config.ema_decay is not None and bool(self._normalizations)
        with self._strategy.scope():
            self._momentum, self._weights_decay = tf.Variable(0.0), tf.Variable(0.0)
        for layer in self._normalizations:
            _make_variable(layer, "momentum", self._momentum)
        if self._config.ema_decay is not None:
            # Float16 scales the loss around the optimizer.
            optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
            _make_variable(optimizer, "ema_momentum", self._weights_decay)
        if self._normalizations:
            warn_of_few_steps(self._config, self._config.epochs * self._steps)
        if self._measures:
            self._batches = self._strategy.experimental_distribute_dataset(self._sample())
            # What is computed is not used: the statistics are updated on the way.
            self._forward = traced_once(lambda pixels: self._strategy.run(lambda x: model(x, training=True), (pixels,)))

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        step = self._epoch * self._steps + batch
        self._momentum.assign(statistics_momentum(self._config, step))
        if self._config.ema_decay is not None:
            self._weights_decay.assign(decay(step, self._config.ema_decay))

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """The mean over batches, as in update_bn of Izmailov et al. 2018, arXiv:1803.05407."""
        if not self._measures:
            return
        for index, pixels in enumerate(self._batches):
            self._momentum.assign(index / (index + 1))
            self._forward(pixels)


def _make_variable(owner: Any, name: str, variable: tf.Variable) -> None:
    """Puts a variable where Keras has a number, so that it changes between steps without tracing anew.

    Past Keras' own `__setattr__`, which would count it among the weights: it is no part of a checkpoint or an export.
    """
    object.__setattr__(owner, name, variable)
