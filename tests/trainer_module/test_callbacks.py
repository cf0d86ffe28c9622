"""What happens between epochs, on a real fit."""

import csv
import logging
import re
from pathlib import Path

import keras
import numpy as np
import pytest

from flexunet.core.config.train import TrainConfig
from flexunet.core.progress import step_of
from trainer_module.callbacks import ProgressLine, StepTeller, training_callbacks
from trainer_module.clock import Clock


def fit(
    config: TrainConfig, directory: Path, labels: float = 0.0, eval_labels: float = 1e9
) -> tuple[keras.Model, keras.callbacks.History]:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(config.learning_rate), "mse")
    x = np.ones((4, 1), np.float32)
    history = model.fit(
        x,
        x * labels,
        validation_data=(x, x * eval_labels),
        epochs=config.epochs,
        verbose=0,
        callbacks=training_callbacks(config, directory, images_per_epoch=4, steps_per_epoch=1, clock=Clock()),
    )
    return model, history


def test_the_plateau_patience_applies(tmp_path: Path) -> None:
    """SEED defect 5: a misspelt keyword left ReduceLROnPlateau at Keras' own patience of 10."""
    config = TrainConfig(epochs=8, learning_rate=1e-12, monitor="loss", plateau_factor=0.4, plateau_patience=2)
    _, history = fit(config, tmp_path)
    rates = [round(rate / 1e-12, 4) for rate in history.history["learning_rate"]]
    assert rates == [1, 1, 1, 0.4, 0.4, 0.16, 0.16, 0.064]


def test_early_stopping_counts_epochs_without_progress(tmp_path: Path) -> None:
    config = TrainConfig(epochs=50, learning_rate=1e-12, monitor="loss", early_stopping_patience=3)
    _, history = fit(config, tmp_path)
    assert len(history.epoch) == 4


def test_history_has_a_row_for_each_epoch(tmp_path: Path) -> None:
    fit(TrainConfig(epochs=3, learning_rate=1e-3, monitor="loss"), tmp_path)
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert all(float(row["loss"]) >= 0 and float(row["val_loss"]) > 0 for row in rows)
    assert list((tmp_path / "train").glob("events.out.tfevents.*"))


def test_a_time_limit_stops_after_the_epoch(tmp_path: Path) -> None:
    config = TrainConfig(epochs=50, learning_rate=1e-3, monitor="loss", max_seconds=1e-6)
    _, history = fit(config, tmp_path)
    assert len(history.epoch) == 1


def test_nan_stops_training_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", logger="flexunet")
    _, history = fit(TrainConfig(epochs=5, learning_rate=1e-3, monitor="loss"), tmp_path, labels=float("nan"))
    assert len(history.epoch) == 1
    [record] = caplog.records
    assert "not finite in step 1 of epoch 1" in record.message and "lower train.learning_rate" in record.message


def test_each_step_tells_epoch_loss_dice_and_speed_to_who_watches(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "flexunet.progress")
    teller = StepTeller(epochs=3, images_per_epoch=40, steps_per_epoch=10)
    teller.on_epoch_begin(1)
    for step in range(4):
        teller.on_train_batch_end(step, {"loss": 0.5, "foreground_dice": 0.25})
    step = step_of(caplog.records[-1])
    assert step and (step.task, step.done, step.total, step.ended) == ("training", 14, 30, False)
    assert re.fullmatch(r"epoch 2/3  loss 0.5000  Dice 0.2500  \d+ images/s", step.words)


@pytest.mark.parametrize("is_watched", [False, True])
def test_steps_are_told_only_to_who_watches(tmp_path: Path, caplog: pytest.LogCaptureFixture, is_watched: bool) -> None:
    if is_watched:
        caplog.set_level(logging.DEBUG, "flexunet.progress")
    made = training_callbacks(TrainConfig(epochs=1), tmp_path, images_per_epoch=4, steps_per_epoch=1, clock=Clock())
    kinds = {type(callback) for callback in made}
    assert (StepTeller in kinds) == is_watched and ProgressLine in kinds
