"""Several trained models as one: the mean of their probabilities, exported like any other."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import keras

from flexunet.core.config.train import TrainerConfig
from trainer_module.export import export_model, exported_weights
from trainer_module.model import build_model


def ensemble_model(exports: Sequence[Path], config: TrainerConfig) -> keras.Model:
    """The models of `exports`, all of the layers that `config` asks for, with one input and one answer.

    Pixels `[N, height, width, 3]`, 0 to 255 -> class probabilities float32 `[N, height, width, C]`.

    Raises:
      ValueError: an export has other layers.
    """
    inputs = keras.Input((config.image.height, config.image.width, 3), name="pixels")
    answers = []
    for index, export in enumerate(exports):
        model = build_model(config)
        model.set_weights(exported_weights(str(export)))
        member = keras.Model(model.inputs, model.outputs, name=f"member{index}")
        answers.append(member(inputs))
    return keras.Model(inputs, keras.layers.Average(name="mean")(answers), name="ensemble")


def export_ensemble(
    exports: Sequence[Path], config: TrainerConfig, facts: Mapping[str, float], directory: Path
) -> None:
    """Writes the ensemble as a SavedModel with every signature of a single model; `directory` is not there yet."""
    model = ensemble_model(exports, config)
    aside = directory.with_name(f".{directory.name}.incomplete")
    export_model(model, config, {**facts, "parameters": model.count_params(), "members": len(exports)}, aside)
    aside.rename(directory)
