"""Optimizers, and the learning rate as a function of what is done of the work."""

import math
from typing import Any, Final

import keras

from flexunet.core.config.train import TrainConfig
from trainer_module.clock import Clock

# Adam's rate as a share of Muon's, and Muon's momentum, of the trainings that chose it: docs/explanation/neu-seg.md.
_ADAM_SHARE: Final = 0.3
_MUON_MOMENTUM: Final = 0.9


class Muon(keras.optimizers.Muon):
    """Muon for the kernels of convolutions, Adam for offsets and scales.

    A kernel is a matrix here, of all its axes but the last, and the last, and its step has singular values of about 1
    in all directions: what few pixels show is learnt as fast as what all do (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon). Keras does so with dense layers alone. The mean square of a step is that
    of 0.2 times the rate, about as with Adam (Liu et al. 2025, arXiv:2502.16982).
    """

    def _should_use_adamw(self, variable: Any) -> bool:
        return len(variable.shape) != 4

    def zeropower_via_newtonschulz5(self, x: Any, steps: int) -> Any:
        """The kernel `x` with singular values of about 1, by so many steps of an iteration.

        Keras' polynomial of the matrix, whose factors are found from its products of columns (or of rows, the fewer):
        nine times as many rows as columns are multiplied twice, not in each step, which halves the arithmetic.
        """
        # Some of Keras' operations are declared to give nothing.
        ops: Any = keras.ops
        matrix = ops.reshape(x, (-1, x.shape[-1]))
        matrix /= ops.norm(matrix) + 1e-7
        tall = matrix.shape[0] > matrix.shape[1]
        products = ops.transpose(matrix) @ matrix if tall else matrix @ ops.transpose(matrix)
        identity = ops.eye(products.shape[0], dtype=products.dtype)
        factor = identity
        for _ in range(steps):
            change = self.muon_a * identity + self.muon_b * products + self.muon_c * (products @ products)
            factor, products = change @ factor, change @ products @ change
        return ops.reshape(matrix @ factor if tall else factor @ matrix, x.shape)

    def _apply_weight_decay(self, variables: Any) -> None:
        """As other optimizers do: Muon's own assigns past the replicas of several GPUs."""
        super(keras.optimizers.Muon, self)._apply_weight_decay(variables)

    def lr_adjust(self, x: Any) -> Any:
        """A step of singular values of about 1, times the rate -> one whose elements have the size of Adam's."""
        *rows, columns = x.shape
        return x * (self.rms_rate * math.sqrt(max(math.prod(rows), columns)))


def make_optimizer(config: TrainConfig) -> keras.optimizers.Optimizer:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980), AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) or Muon.

    With `ema_decay` the optimizer also keeps an average of the weights (Polyak & Juditsky 1992), which
    `keras.callbacks.SwapEMAWeights` brings into the model.
    """
    settings: dict[str, Any] = {"learning_rate": config.learning_rate, "clipvalue": config.clipvalue}
    if config.ema_decay is not None:
        settings |= {"use_ema": True, "ema_momentum": config.ema_decay}
    if config.optimizer == "adam":
        return keras.optimizers.Adam(**settings)
    settings["weight_decay"] = config.weight_decay
    if config.optimizer == "muon":
        optimizer = Muon(adam_lr_ratio=_ADAM_SHARE, momentum=_MUON_MOMENTUM, **settings)
    else:
        optimizer = keras.optimizers.AdamW(**settings)
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
