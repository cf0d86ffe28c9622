"""Optimizers, and the learning rate as a function of what is done of the work."""

import math
from typing import Any

import keras

from flexunet.core.config.train import TrainConfig
from trainer_module.clock import Clock


def make_optimizer(config: TrainConfig) -> keras.optimizers.Optimizer:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980) or AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101).

    With `ema_decay` the optimizer also keeps an average of the weights (Polyak & Juditsky 1992), which
    `keras.callbacks.SwapEMAWeights` brings into the model.
    """
    settings: dict[str, Any] = {"learning_rate": config.learning_rate, "clipvalue": config.clipvalue}
    if config.ema_decay is not None:
        settings |= {"use_ema": True, "ema_momentum": config.ema_decay}
    if config.optimizer == "adam":
        return keras.optimizers.Adam(**settings)
    optimizer = keras.optimizers.AdamW(weight_decay=config.weight_decay, **settings)
    # Decay pulls kernels to 0; offsets and the scales of normalizations are not to go there.
    optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    return optimizer


def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0 over `progress`, 0 to 1; Loshchilov & Hutter 2017, arXiv:1608.03983."""
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def cooldown(progress: float, share: float) -> float:
    """1, and over the last `share` of `progress` linear to 0; Zhai et al. 2022, arXiv:2106.04560."""
    return max(0.0, min(1.0, (1 - progress) / share))


def warmup(step: int, steps: float) -> float:
    """Linear to 1 in so many steps; Goyal et al. 2017, arXiv:1706.02677."""
    return min(1.0, (step + 1) / steps) if steps else 1.0


class RateSchedule(keras.callbacks.Callback):
    """Sets the learning rate before each step, for schedules that follow what is done of the work.

    Work is done when the epochs are, or the seconds: a schedule that ends with the budget, whichever it is, beats one
    that is cut off (Li et al. 2020, "Budgeted training", arXiv:1905.04753).
    """

    def __init__(self, config: TrainConfig, steps_per_epoch: int, clock: Clock) -> None:
        super().__init__()
        self._config, self._steps, self._clock = config, steps_per_epoch, clock

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        config, step = self._config, self._epoch * self._steps + batch
        progress = step / (config.epochs * self._steps)
        if config.max_seconds is not None:
            progress = max(progress, self._clock.seconds / config.max_seconds)
        factor = cosine(progress) if config.schedule == "cosine" else cooldown(progress, config.cooldown)
        self.model.optimizer.learning_rate = (
            config.learning_rate * factor * warmup(step, config.warmup_epochs * self._steps)
        )
