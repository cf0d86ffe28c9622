"""Encoders of keras.applications: pixels from 0 to 255 in, features at five resolutions out, for FlexUNet's decoder.

EfficientNetV2-B0 (Tan & Le 2021, arXiv:2104.00298): what it does to pixels first is part of its layers, so that an
export needs nothing more; its large levels are plain convolutions, which processors are fast at; and it is small. Its
layers stand in the model one by one, where `inspect`, the statistics of averaged weights and a checkpoint find them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import keras
import numpy as np

from flexunet.core.errors import UserError
from trainer_module.keras_file import KerasFile, open_keras_file


@dataclass(frozen=True)
class Encoder:
    """A network of keras.applications.

    Attributes:
      build: Keras' function.
      file: the name under which Keras publishes its weights without top layers.
      stages: the layers whose results are the features at a half, a quarter, ... a 32nd of the resolution.
    """

    build: Callable[..., keras.Model]
    file: str
    stages: tuple[str, ...]


# By `model.encoder`. The last stage lies before the convolution to 1,280 channels, which serves ImageNet's classes.
ENCODERS: Final[Mapping[str, Encoder]] = {
    "efficientnetv2-b0": Encoder(
        keras.applications.EfficientNetV2B0,
        "efficientnetv2-b0_notop.h5",
        ("block1a_project_activation", "block2b_add", "block3b_add", "block5e_add", "block6h_add"),
    ),
}


def encoder_features(pixels: keras.KerasTensor, name: str, frozen: bool = False) -> list[keras.KerasTensor]:
    """Pixels `[N, height, width, 3]`, 0 to 255 -> features `[N, height / 2**i, width / 2**i, channels]`, i from 1 to 5.

    A frozen encoder is the same function in training and afterwards: it normalizes by what it knows and drops nothing.

    Args:
      pixels: height and width are multiples of 32.
      name: of `ENCODERS`.
      frozen: it does not learn.
    """
    encoder = ENCODERS[name]
    network = encoder.build(include_top=False, weights=None, input_tensor=pixels, include_preprocessing=True)
    if frozen:
        # Keras' batch normalization then uses its statistics in training, too, and leaves them as they are.
        network.trainable = False
        for layer in network.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
    return [network.get_layer(stage).output for stage in encoder.stages]


def load_encoder(model: keras.Model, name: str, file: Path) -> None:
    """Gives the encoder in `model` the weights of a file as Keras publishes it, read as data.

    Raises:
      UserError: a damaged file, one of another network, or weights that are no numbers; `model` is as it was.
    """
    layers = [layer for layer in encoder_layers(model, name) if layer.weights]
    with open_keras_file(file) as source:
        for layer in layers:
            _check_shapes(layer, source, name)
        arrays = {layer.name: source.arrays(layer.name) for layer in layers}
    for layer_name, values in arrays.items():
        if not all(np.isfinite(value).all() for value in values):
            raise UserError(f"{file}: weights of {layer_name} are not finite, expected numbers: fetch the file again")
    for layer in layers:
        layer.set_weights(arrays[layer.name])


def encoder_layers(model: keras.Model, name: str) -> Sequence[keras.Layer]:
    """The layers of `model` from its pixels to the deepest features."""
    return keras.Model(model.input, model.get_layer(ENCODERS[name].stages[-1]).output).layers


def _check_shapes(layer: keras.Layer, source: KerasFile, name: str) -> None:
    found, expected = source.shapes(layer.name), [tuple(weight.shape) for weight in layer.weights]
    if found != expected:
        raise UserError(
            f"{source.path}: the layer {layer.name} has arrays of {found or 'nothing'}, expected {expected}: weights "
            f"of another network than model.encoder = {name!r}, whose file Keras calls {ENCODERS[name].file}"
        )
