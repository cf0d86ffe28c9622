"""Several trained models as one: the mean of their probabilities, exported like any other."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from flexunet.core.config.train import TrainerConfig
from flexunet.core.results.training import TrainingFacts
from trainer_module.export import export_model
from trainer_module.model import build_model


def ensemble_model(members: Sequence[Sequence[np.ndarray]], config: TrainerConfig) -> keras.Model:
    """Models of the layers that `config` asks for, each with its own weights, with one input and one answer.

    Pixels `[N, height, width, 3]`, 0 to 255 -> class probabilities float32 `[N, height, width, C]`.

    Args:
      members: the arrays of each, in the order of `model.weights`.
      config: image, model and classes.

    Raises:
      ValueError: weights of other layers.
    """
    inputs = keras.Input((config.image.height, config.image.width, 3), name="pixels")
    answers = []
    for index, weights in enumerate(members):
        model = build_model(config)
        model.set_weights(weights)
        answers.append(keras.Model(model.input, model.output, name=f"member{index}")(inputs))
    return keras.Model(inputs, keras.layers.Average(name="mean")(answers), name="ensemble")


def export_ensemble(
    members: Sequence[Sequence[np.ndarray]], config: TrainerConfig, facts: TrainingFacts, directory: Path
) -> None:
    """Writes the ensemble as a SavedModel with every signature of a single model; `directory` is not there yet."""
    model = ensemble_model(members, config)
    aside = directory.with_name(f".{directory.name}.incomplete")
    known: TrainingFacts = {**facts, "parameters": model.count_params(), "members": len(members)}
    export_model(model, config, known, aside)
    aside.rename(directory)
