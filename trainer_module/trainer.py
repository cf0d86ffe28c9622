"""Trainer's `run_fn`: records in, the best model out as a SavedModel."""

import functools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np
import tensorflow as tf
from pydantic import BaseModel

from flexunet.core.config.data import SegmentationClass
from flexunet.core.config.train import NO_WEIGHTS, ModelConfig, TrainConfig, TrainerConfig
from flexunet.core.encoder_file import encoder_digest
from flexunet.core.errors import UserError
from flexunet.core.operating_point import DefectRule
from flexunet.core.progress import Step, tell
from flexunet.serving.exported import LENIENT, exported_part
from trainer_module import data, devices, previews
from trainer_module.averages import averaging_callbacks
from trainer_module.callbacks import StepTeller, training_callbacks
from trainer_module.checkpoint import Checkpoint, checkpoint_key
from trainer_module.clock import Clock
from trainer_module.encoder import load_encoder
from trainer_module.export import export_model, exported_weights
from trainer_module.losses import make_loss
from trainer_module.metrics import ForegroundDice
from trainer_module.model import build_model
from trainer_module.operating_point import choose_operating_point
from trainer_module.optimization import make_optimizer

if TYPE_CHECKING:
    # A study trains in processes that need none of TFX's ten thousand modules.
    from tfx import v1 as tfx

    from flexunet.core.results.operating import OperatingPoint
    from flexunet.core.results.training import TrainingFacts

logger = logging.getLogger("flexunet.train")


@dataclass(frozen=True)
class Job:
    """What one training reads and writes; file patterns point at Transform's records.

    Attributes:
      train_patterns: what is learnt from.
      eval_patterns: what steers.
      log_directory: for TensorBoard, history.csv and pictures.
      checkpoints: folder that outlives a killed process.
      code: fingerprint of the code, part of the key of a checkpoint.
      base_model: a SavedModel of this project to begin with, or "".
      rule: what a found defect and a false region are, where an operating point is chosen.
      callbacks: more of Keras' callbacks, after ours.
    """

    train_patterns: Sequence[str]
    eval_patterns: Sequence[str]
    log_directory: Path
    checkpoints: Path
    code: str = ""
    base_model: str = ""
    rule: DefectRule | None = None
    callbacks: Sequence[keras.callbacks.Callback] = ()


@dataclass(frozen=True)
class Trained:
    """A model in float32 on the default device, with its best weights."""

    model: keras.Model
    epochs: int
    seconds: float
    checkpoint: Checkpoint

    def facts(self, code: str, encoder: str) -> "TrainingFacts":
        """For the export: `code` is the fingerprint of the code, `encoder` the hash of the encoder's file, or ""."""
        facts: TrainingFacts = {
            "parameters": self.model.count_params(),
            "epochs": self.epochs,
            "train_seconds": round(self.seconds, 1),
            "code": code,
        }
        if encoder:
            facts["encoder_weights"] = encoder
        return facts


def run_fn(fn_args: "tfx.components.FnArgs") -> None:
    """Trains FlexUNet on `train`, steered by `eval`, and exports it.

    Raises:
      ValueError: too few images for one batch, a base model of other layers, or weights that are not finite.
      UserError: the file of the encoder's weights is not that of `[model]`, or no longer what the run began with.
    """
    custom = fn_args.custom_config
    config = TrainerConfig.model_validate_json(custom["config"])
    if fn_args.hyperparameters:
        config = config.tuned(fn_args.hyperparameters["values"])
    check_encoder(config.train, custom)
    job = Job(
        fn_args.train_files,
        fn_args.eval_files,
        Path(fn_args.model_run_dir),
        Path(custom["checkpoints"]),
        custom["code"],
        fn_args.base_model or "",
        DefectRule(*json.loads(custom["rule"])) if "rule" in custom else None,
    )
    trained = train(job, config)
    facts = trained.facts(job.code, "" if job.base_model else custom.get("encoder", ""))
    export_model(trained.model, config, facts, Path(fn_args.serving_model_dir), _operating_point(trained, job, config))
    trained.checkpoint.discard()


def check_encoder(config: TrainConfig, custom: Mapping[str, str]) -> None:
    """Raises UserError where the file of weights is no longer the one by whose content a node's results are cached."""
    if encoder_digest(config) != custom.get("encoder", ""):
        raise UserError(
            f"train.encoder_weights: {config.encoder_weights} is not what it was when the run began, expected the same "
            "content: run again"
        )


def _operating_point(trained: Trained, job: Job, config: TrainerConfig) -> "OperatingPoint | None":
    if job.rule is None:
        return None
    return choose_operating_point(trained.model, expand(job.eval_patterns), config, job.rule)


def train(job: Job, config: TrainerConfig) -> Trained:
    """Fits one model, or goes on with one whose training was killed."""
    devices.make_reproducible(config.train)
    strategy = devices.make_strategy(devices.usable_gpus(devices.gpu_names(), config.train.batch_size))
    splits = _open_splits(job, config)
    _warn_of_clipping(config, strategy)
    with strategy.scope(), devices.precision(devices.dtype_policy(config.train)):
        model = compiled_model(config)
    _begin_with(model, config, job.base_model)
    logger.info(
        "%s parameters, %d training and %d eval tiles",
        f"{model.count_params():,}",
        splits.train_tiles,
        splits.eval_tiles,
    )
    clock = Clock()
    sample = functools.partial(data.sample_batches, splits.train_files, splits.train_tiles, config)
    callbacks = [
        *averaging_callbacks(config.train, splits.steps, sample),
        *training_callbacks(
            config.train, job.log_directory, splits.steps * config.train.batch_size, splits.steps, clock
        ),
    ]
    if config.train.preview_images:
        callbacks.append(previews.Previews(splits.eval_files, config, job.log_directory))
        previews.draw_augmented(splits.train_files, config, job.log_directory)
    mode = devices.computing_mode(config.train, strategy)
    key = checkpoint_key(
        [config.training_json(), job.code, job.base_model, mode, encoder_digest(config.train)],
        [*splits.train_files, *splits.eval_files],
    )
    checkpoint = Checkpoint(job.checkpoints, key, callbacks, clock)
    epochs = _fit(model, splits, job, config, [*callbacks, *job.callbacks, checkpoint], checkpoint.first_epoch)
    return Trained(_plain_model(model, config), epochs, clock.seconds, checkpoint)


@dataclass(frozen=True)
class _Splits:
    """Files and tiles of `train` and `eval`, and the steps of an epoch."""

    train_files: list[str]
    eval_files: list[str]
    train_tiles: int
    eval_tiles: int
    steps: int


def _open_splits(job: Job, config: TrainerConfig) -> _Splits:
    train_files, eval_files = expand(job.train_patterns), expand(job.eval_patterns)
    train_tiles, eval_tiles = data.count_tiles(train_files, config), data.count_tiles(eval_files, config)
    steps = train_tiles // config.train.batch_size
    if steps == 0 or eval_tiles == 0:
        raise ValueError(
            f"{train_tiles} training and {eval_tiles} eval tiles, expected at least train.batch_size "
            f"({config.train.batch_size}) and 1: add images or lower train.batch_size"
        )
    if not data.shows_defect(eval_files, config):
        raise ValueError("no pixel of `eval` is labelled as a defect, expected some: nothing could steer training")
    return _Splits(train_files, eval_files, train_tiles, eval_tiles, steps)


def _fit(
    model: keras.Model,
    splits: _Splits,
    job: Job,
    config: TrainerConfig,
    callbacks: Sequence[keras.callbacks.Callback],
    first_epoch: int,
) -> int:
    """Returns how many epochs the model has been trained for, those before a kill included."""
    cache = data.choose_cache(splits.train_tiles + splits.eval_tiles, config, job.log_directory)
    # Of a process that was killed: what is half written there could not be gone on with.
    _remove(cache)
    try:
        history = model.fit(
            data.training_batches(splits.train_files, splits.train_tiles, config, cache, first_epoch),
            validation_data=data.evaluation_batches(splits.eval_files, splits.eval_tiles, config, cache),
            initial_epoch=first_epoch,
            epochs=config.train.epochs,
            steps_per_epoch=splits.steps,
            shuffle=False,
            callbacks=list(callbacks),
            verbose=0,
        )
    finally:
        tell(Step(StepTeller.TASK, 0, 0, ended=True))
        _remove(cache)
    return history.epoch[-1] + 1


def compiled_model(config: TrainerConfig) -> keras.Model:
    """FlexUNet with its loss, its optimizer and the metric that steers training."""
    model = build_model(config)
    model.compile(
        make_optimizer(config.train),
        make_loss(config.train, config.classes),
        metrics=[ForegroundDice(len(config.classes))],
        # Keras' own "auto" turns XLA on everywhere.
        jit_compile=devices.uses_xla(config.train),
    )
    return model


def _warn_of_clipping(config: TrainerConfig, strategy: tf.distribute.Strategy) -> None:
    if config.train.clipvalue is not None and strategy.num_replicas_in_sync > 1:
        logger.warning("train.clipvalue clips the gradients of each GPU before they are added, not their sum")


def _begin_with(model: keras.Model, config: TrainerConfig, base_model: str) -> None:
    """Assigns the weights of an export of this project, or those that the encoder was trained to elsewhere."""
    if not base_model:
        if config.train.encoder_weights:
            load_encoder(model, config.model.encoder, Path(config.train.encoder_weights))
            logger.info("the encoder begins with the weights of %s", config.train.encoder_weights)
        return
    theirs = exported_part(Path(base_model), _Base)
    if _layers(theirs.model, theirs.classes) != _layers(config.model, config.classes):
        raise ValueError(
            f"train.warm_start: {base_model} has other layers than [model] asks for; set train.warm_start = false"
        )
    weights = exported_weights(base_model)
    if len(weights) != len(model.weights):
        raise ValueError(
            f"train.warm_start: {base_model} holds {len(weights)} arrays of weights, expected {len(model.weights)}, "
            "those of one model: an ensemble cannot be gone on with; set train.warm_start = false"
        )
    for variable, weight in zip(model.weights, weights, strict=True):
        variable.assign(weight)
    logger.info("training begins with the weights of %s", base_model)


class _BaseLayers(ModelConfig):
    model_config = LENIENT


class _Base(BaseModel):
    """What a warm start needs of an export, perhaps one of another version with other settings for all the rest."""

    model_config = LENIENT

    classes: tuple[SegmentationClass, ...]
    model: _BaseLayers


def _layers(model: ModelConfig, classes: Sequence[SegmentationClass]) -> dict[str, object]:
    """What two models must share to share weights; an image of another size has the same convolutions."""
    return {**model.model_dump(exclude={*NO_WEIGHTS}), "classes": len(classes)}


def _plain_model(trained: keras.Model, config: TrainerConfig) -> keras.Model:
    """The same weights in float32 layers on the default device: an export must run anywhere."""
    values = {v.path: keras.ops.convert_to_numpy(v) for v in trained.variables}
    broken = [path for path, value in values.items() if not np.isfinite(np.asarray(value)).all()]
    if broken:
        raise ValueError(
            f"training diverged: {len(broken)} weights are not finite, the first is {broken[0]}; "
            "lower train.learning_rate or set train.clipvalue"
        )
    model = build_model(config)
    model.set_weights(trained.get_weights())
    return model


def expand(patterns: Sequence[str]) -> list[str]:
    """The files that patterns match, sorted."""
    return sorted(path for pattern in patterns for path in tf.io.gfile.glob(pattern))


def _remove(cache: data.Cache) -> None:
    for path in tf.io.gfile.glob(f"{cache}-*") if cache else []:
        tf.io.gfile.remove(path)
