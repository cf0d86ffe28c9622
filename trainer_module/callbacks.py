"""What happens between epochs."""

import csv
import logging
import math
import time
from pathlib import Path
from typing import Any

import keras

from pipeline.config import TrainConfig

logger = logging.getLogger("flexunet.train")


class ProgressLine(keras.callbacks.Callback):
    """One line an epoch: loss, Dice, images per second, time left."""

    def __init__(self, epochs: int, images_per_epoch: int) -> None:
        super().__init__()
        self._epochs, self._images = epochs, images_per_epoch

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._started = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch_started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        now, logs = time.monotonic(), logs or {}
        left = (now - self._started) / (epoch + 1) * (self._epochs - epoch - 1)
        logger.info(
            "epoch %d/%d  loss %.4f  eval loss %.4f  eval foreground Dice %.4f  %.0f images/s  %.0f s left",
            epoch + 1,
            self._epochs,
            logs.get("loss", math.nan),
            logs.get("val_loss", math.nan),
            logs.get("val_foreground_dice", math.nan),
            self._images / (now - self._epoch_started),
            left,
        )


class History(keras.callbacks.Callback):
    """history.csv, one row an epoch, written as it goes (Keras' CSVLogger buffers until training ends)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        row: dict[str, float] = {"epoch": epoch + 1, **(logs or {})}
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)


class TimeLimit(keras.callbacks.Callback):
    """Stops after the epoch in which `seconds` have passed."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._deadline = time.monotonic() + self._seconds

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if time.monotonic() > self._deadline:
            logger.info("stopped after epoch %d: train.max_seconds is %g", epoch + 1, self._seconds)
            self.model.stop_training = True


def training_callbacks(config: TrainConfig, log_directory: Path, images_per_epoch: int) -> list[Any]:
    """Early stopping with the best weights, plateau, TensorBoard, CSV history and a line per epoch."""
    monitor, mode = ("val_loss", "min") if config.monitor == "loss" else ("val_foreground_dice", "max")
    log_directory.mkdir(parents=True, exist_ok=True)
    callbacks: list[Any] = [
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.EarlyStopping(
            monitor, patience=config.early_stopping_patience, mode=mode, restore_best_weights=True
        ),
        History(log_directory / "history.csv"),
        keras.callbacks.TensorBoard(str(log_directory), write_graph=False),
        ProgressLine(config.epochs, images_per_epoch),
    ]
    if config.schedule == "plateau":
        callbacks.append(
            keras.callbacks.ReduceLROnPlateau(
                monitor, factor=config.plateau_factor, patience=config.plateau_patience, mode=mode
            )
        )
    if config.max_seconds is not None:
        callbacks.append(TimeLimit(config.max_seconds))
    return callbacks
