"""Trainer's `run_fn`: records in, the best model out as a SavedModel."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tfx import v1 as tfx

from pipeline.config import TrainConfig, TrainerConfig
from trainer_module import data
from trainer_module.callbacks import training_callbacks
from trainer_module.export import export_model
from trainer_module.losses import LOSSES
from trainer_module.metrics import ForegroundDice
from trainer_module.model import build_model

logger = logging.getLogger("flexunet.train")


def run_fn(fn_args: tfx.components.FnArgs) -> None:
    """Trains FlexUNet on `train`, steered by `eval`, and exports it.

    Raises:
      ValueError: too few images for one batch, or training gave weights that are not finite.
    """
    config = TrainerConfig.model_validate_json(fn_args.custom_config["config"])
    _make_reproducible(config.train.seed)
    started = time.monotonic()
    model, history = train(fn_args.train_files, fn_args.eval_files, config, Path(fn_args.model_run_dir))
    facts = {
        "parameters": model.count_params(),
        "epochs": len(history.epoch),
        "train_seconds": round(time.monotonic() - started, 1),
    }
    export_model(model, config, facts, Path(fn_args.serving_model_dir))


def train(
    train_patterns: Sequence[str], eval_patterns: Sequence[str], config: TrainerConfig, log_directory: Path
) -> tuple[keras.Model, Any]:
    """Fits one model; file patterns point at Transform's records. Returns the model with its best weights."""
    train_files, eval_files = _expand(train_patterns), _expand(eval_patterns)
    train_tiles, eval_tiles = data.count_tiles(train_files, config), data.count_tiles(eval_files, config)
    steps = train_tiles // config.train.batch_size
    if steps == 0 or eval_tiles == 0:
        raise ValueError(
            f"{train_tiles} training and {eval_tiles} eval tiles, expected at least train.batch_size "
            f"({config.train.batch_size}) and 1: add images or lower train.batch_size"
        )
    model = _compiled_model(config, steps)
    logger.info("%s parameters, %d training and %d eval tiles", f"{model.count_params():,}", train_tiles, eval_tiles)
    cache = data.fits_in_memory(train_tiles + eval_tiles, config)
    history = model.fit(
        data.training_batches(train_files, train_tiles, config, cache),
        validation_data=data.evaluation_batches(eval_files, eval_tiles, config, cache),
        epochs=config.train.epochs,
        steps_per_epoch=steps,
        shuffle=False,
        callbacks=training_callbacks(config.train, log_directory, steps * config.train.batch_size),
        verbose=0,
    )
    _check_finite(model)
    return model, history


def _compiled_model(config: TrainerConfig, steps_per_epoch: int) -> keras.Model:
    num_classes = len(config.classes)
    model = build_model(config.image.height, config.image.width, num_classes, config.model, config.train.seed)
    optimizer = keras.optimizers.Adam(_learning_rate(config.train, steps_per_epoch), clipvalue=config.train.clipvalue)
    # XLA halves the speed on CPUs and helps on GPUs; Keras' own "auto" turns it on everywhere.
    jit_compile = bool(tf.config.list_physical_devices("GPU"))
    model.compile(optimizer, LOSSES[config.train.loss], metrics=[ForegroundDice(num_classes)], jit_compile=jit_compile)
    return model


def _learning_rate(config: TrainConfig, steps_per_epoch: int) -> Any:
    if config.schedule != "cosine":
        return config.learning_rate
    warmup = round(config.warmup_epochs * steps_per_epoch)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else config.learning_rate,
        warmup_target=config.learning_rate if warmup else None,
        warmup_steps=warmup,
        decay_steps=max(1, config.epochs * steps_per_epoch - warmup),
    )


def _make_reproducible(seed: int) -> None:
    keras.utils.set_random_seed(seed)
    # On GPUs determinism costs speed, and some ops have no deterministic kernel.
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()


def _expand(patterns: Sequence[str]) -> list[str]:
    return sorted(path for pattern in patterns for path in tf.io.gfile.glob(pattern))


def _check_finite(model: keras.Model) -> None:
    broken = [variable.path for variable in model.variables if not np.all(np.isfinite(np.asarray(variable.value)))]
    if broken:
        raise ValueError(
            f"training diverged: {len(broken)} weights are not finite, the first is {broken[0]}; "
            "lower train.learning_rate or set train.clipvalue"
        )
