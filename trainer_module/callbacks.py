"""What happens between steps and epochs."""

import csv
import logging
import math
import time
from pathlib import Path

import keras

from flexunet.core import features
from flexunet.core.config.train import TrainConfig
from flexunet.core.progress import Step, is_watched, tell
from trainer_module.clock import Clock
from trainer_module.optimization import RateSchedule

logger = logging.getLogger("flexunet.train")


class ProgressLine(keras.callbacks.Callback):
    """One line an epoch: loss, Dice, images per second, time left."""

    def __init__(self, config: TrainConfig, images_per_epoch: int, clock: Clock) -> None:
        super().__init__()
        self._epochs, self._limit, self._images = config.epochs, config.max_seconds, images_per_epoch
        self._clock, self._first = clock, None

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch_started = time.monotonic()
        if self._first is None:
            self._first, self._started = epoch, self._epoch_started

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        self._trained = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        done = epoch + 1 - (self._first or 0)
        left = (time.monotonic() - self._started) / done * (self._epochs - epoch - 1)
        if self._limit is not None:
            left = min(left, max(0.0, self._limit - self._clock.seconds))
        logger.info(
            "epoch %d/%d  loss %.4f  eval loss %.4f  eval foreground Dice %.4f  %.0f images/s  %.0f s left",
            epoch + 1,
            self._epochs,
            logs.get("loss", math.nan),
            logs.get("val_loss", math.nan),
            logs.get("val_foreground_dice", math.nan),
            self._images / (self._trained - self._epoch_started),
            left,
        )


class StepTeller(keras.callbacks.Callback):
    """Tells each step to whoever watches: epoch, loss, foreground Dice, images per second."""

    TASK = "training"

    def __init__(self, epochs: int, images_per_epoch: int, steps_per_epoch: int) -> None:
        super().__init__()
        self._epochs, self._steps, self._images = epochs, steps_per_epoch, images_per_epoch / steps_per_epoch

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch, self._started = epoch, time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        loss, dice = (float((logs or {}).get(name, math.nan)) for name in ("loss", "foreground_dice"))
        speed = (batch + 1) * self._images / max(time.monotonic() - self._started, 1e-9)
        words = f"epoch {self._epoch + 1}/{self._epochs}  loss {loss:.4f}  Dice {dice:.4f}  {speed:.0f} images/s"
        tell(Step(self.TASK, self._epoch * self._steps + batch + 1, self._epochs * self._steps, words))


class History(keras.callbacks.Callback):
    """history.csv, one row an epoch, written as it goes (Keras' CSVLogger buffers until training ends)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        # Of a training before in the same folder; what is resumed brings its rows along.
        self.path.unlink(missing_ok=True)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row: dict[str, float] = {"epoch": epoch + 1, "learning_rate": rate, **(logs or {})}
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)


class TimeLimit(keras.callbacks.Callback):
    """Stops after the epoch in which `seconds` have passed."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        super().__init__()
        self._limit, self._clock = seconds, clock

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if self._clock.seconds > self._limit:
            logger.info("stopped after epoch %d: train.max_seconds is %g", epoch + 1, self._limit)
            self.model.stop_training = True


class StopOnNan(keras.callbacks.Callback):
    """Stops at a loss that is no finite number and says so; what was best before is kept."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if not math.isfinite((logs or {}).get("loss", 0.0)) and not self.model.stop_training:
            logger.warning(
                "the loss is not finite in step %d of epoch %d: training stops with the best weights before; "
                "lower train.learning_rate or set train.clipvalue",
                batch + 1,
                self._epoch + 1,
            )
            self.model.stop_training = True


def training_callbacks(
    config: TrainConfig, log_directory: Path, images_per_epoch: int, steps_per_epoch: int, clock: Clock
) -> list[keras.callbacks.Callback]:
    """Early stopping with the best ones, schedule, TensorBoard, CSV history, steps and lines."""
    monitor, mode = ("val_loss", "min") if config.monitor == "loss" else ("val_foreground_dice", "max")
    log_directory.mkdir(parents=True, exist_ok=True)
    callbacks: list[keras.callbacks.Callback] = [
        StopOnNan(),
        keras.callbacks.EarlyStopping(
            monitor, patience=config.early_stopping_patience, mode=mode, restore_best_weights=True
        ),
        History(log_directory / features.TRAINING_HISTORY),
        keras.callbacks.TensorBoard(str(log_directory), write_graph=False),
        ProgressLine(config, images_per_epoch, clock),
    ]
    if config.schedule == "plateau":
        callbacks.append(
            keras.callbacks.ReduceLROnPlateau(
                monitor, factor=config.plateau_factor, patience=config.plateau_patience, mode=mode
            )
        )
    if config.schedule in ("cosine", "cooldown"):
        callbacks.append(RateSchedule(config, steps_per_epoch, clock))
    if config.max_seconds is not None:
        callbacks.append(TimeLimit(config.max_seconds, clock))
    if is_watched():
        callbacks.append(StepTeller(config.epochs, images_per_epoch, steps_per_epoch))
    return callbacks
