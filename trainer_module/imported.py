"""Weights that the original FlexUNet project trained, in a model of this project: an export to measure and to push.

The file's layers are compared with those that the configuration asks for, one by one, before any weight is taken.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, NamedTuple

import keras
import numpy as np

from flexunet.core.config.train import FLEXUNET, TrainerConfig
from flexunet.core.errors import UserError
from flexunet.core.files import file_sha256
from flexunet.core.results.training import KerasOrigin, TrainingFacts
from trainer_module.export import export_model
from trainer_module.keras_file import KerasFile, Layer, layers_of, open_keras_file, readable
from trainer_module.model import build_model

# Of each kind of layer, the settings that change what it computes; shapes of arrays tell the rest.
_SETTINGS: Final = {
    "InputLayer": (),
    "Conv2D": ("strides", "padding", "data_format", "dilation_rate", "groups", "activation"),
    "Conv2DTranspose": ("strides", "padding", "data_format", "dilation_rate", "output_padding", "activation"),
    "BatchNormalization": ("axis", "epsilon"),
    "GroupNormalization": ("axis", "epsilon", "groups"),
    "MaxPooling2D": ("pool_size", "strides", "padding", "data_format"),
    "Concatenate": ("axis",),
}
# Layers that belong to others, or change pixels before all of them; "" is of weights alone.
_BETWEEN: Final = ("Rescaling", "Lambda", "Activation")
_KINDS: Final = ("", "Dropout", *_BETWEEN, *_SETTINGS)
# Keras 3's name of what Keras 2 called otherwise.
_ACTIVATIONS: Final = {"swish": "silu", "hard_swish": "hard_silu"}
_NORMALIZATIONS: Final = ("BatchNormalization", "GroupNormalization")
_RANK: Final = 4


@dataclass(frozen=True)
class Imported:
    """What came of a file.

    Attributes:
      model: the network that the configuration asks for, with the file's weights.
      origin: the file.
      notes: what a person should know, a sentence each.
    """

    model: keras.Model
    origin: KerasOrigin
    notes: tuple[str, ...]


class Step(NamedTuple):
    """What one layer computes.

    Attributes:
      name: in its file or model.
      kind: Keras' name of its class; "" where only arrays are known.
      settings: those of `_SETTINGS`.
      inputs: places of the steps that it reads.
      shapes: of its arrays.
    """

    name: str
    kind: str
    settings: dict[str, Any]
    inputs: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class _Network:
    """The steps, and the layer between the input and the first of them that scales pixels."""

    steps: list[Step]
    scale: Layer | None


def import_model(file: Path, config: TrainerConfig, swap_channels: bool = False) -> Imported:
    """Builds the network and takes the weights of a Keras file.

    Args:
      file: `.h5` or `.keras`, of Keras 2 or 3.
      config: what the file was trained with.
      swap_channels: the file was trained on BGR pixels.

    Raises:
      UserError: the file is damaged, brings code of its own, or holds other layers than the configuration asks for.
    """
    if config.model.encoder != FLEXUNET:
        raise UserError(
            f"model.encoder is {config.model.encoder!r}, expected {FLEXUNET!r}: the original has no other encoder"
        )
    model = build_model(config)
    with open_keras_file(file) as source:
        theirs, ours = _network(source), _own_network(model)
        _check_same(source, theirs, ours)
        notes = [*_scale_notes(source, theirs, config), *_point_notes(config)]
        _assign(model, source, theirs, ours)
        origin: KerasOrigin = {"file": file.name, "sha256": file_sha256(file), "keras": source.keras}
    if swap_channels:
        _swap_channels(model, ours)
        notes.append("the first convolution's channels are swapped: the file was trained on BGR, images are RGB here")
    return Imported(model, origin, tuple(notes))


def export_imported(imported: Imported, config: TrainerConfig, out: Path) -> None:
    """Writes an export of this project to `out`, which must not exist, by one rename."""
    facts: TrainingFacts = {"parameters": imported.model.count_params(), "weights": imported.origin}
    aside = out.with_name(f".{out.name}.incomplete")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        export_model(imported.model, config, facts, aside)
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _network(source: KerasFile) -> _Network:
    # Whose settings may be anything.
    with readable(source.path):
        shapes = {layer.name: source.shapes(layer.name) for layer in source.layers}
        return _steps(source.layers, shapes, str(source.path))


def _own_network(model: keras.Model) -> _Network:
    # The code of its own is this project's.
    layers = [dataclasses.replace(layer, is_own=False) for layer in layers_of(json.loads(model.to_json()))]
    # What follows makes two channels of a sigmoid's one.
    end = next(place for place, layer in enumerate(layers) if layer.name == "probabilities")
    shapes = {layer.name: [tuple(w.shape) for w in layer.weights] for layer in model.layers}
    return _steps(layers[: end + 1], shapes, "model")


def _steps(layers: Sequence[Layer], shapes: dict[str, list[tuple[int, ...]]], source: str) -> _Network:
    """Dropout does nothing here, an activation belongs to its convolution, and scaling is compared by itself.

    Raises:
      UserError: a layer that cannot be of this network.
    """
    steps: list[Step] = []
    places: dict[str, int] = {}
    scale: Layer | None = None
    for layer in layers:
        if layer.is_own or layer.kind not in _KINDS:
            raise UserError(
                f"{source}: the layer {layer.name} is a {layer.kind}, expected only {', '.join(_SETTINGS)}: another "
                "network, or code of its own, which is never run"
            )
        inputs = tuple(places[name] for name in layer.inputs)
        if layer.kind == "Dropout":
            places[layer.name] = inputs[0]
        elif layer.kind in ("Rescaling", "Lambda") and inputs == (0,) and scale is None:
            scale, places[layer.name] = layer, 0
        elif layer.kind == "Activation" and steps[inputs[0]].settings.get("activation") == "linear":
            steps[inputs[0]].settings["activation"] = _setting("activation", layer.settings["activation"])
            places[layer.name] = inputs[0]
        elif layer.kind in _BETWEEN:
            raise UserError(
                f"{source}: the {layer.kind} {layer.name} stands between other layers, expected none there: what it "
                "does is not known to this network, and code is never run"
            )
        elif layer.kind or shapes[layer.name]:
            places[layer.name] = len(steps)
            steps.append(Step(layer.name, layer.kind, _settings(layer), inputs, tuple(shapes.get(layer.name, ()))))
    return _Network(steps, scale)


def _settings(layer: Layer) -> dict[str, Any]:
    found = {key: _setting(key, layer.settings[key]) for key in _SETTINGS.get(layer.kind, ()) if key in layer.settings}
    if layer.kind == "InputLayer":
        # Keras 3's and Keras 2's name.
        shape = layer.settings.get("batch_shape") or layer.settings.get("batch_input_shape")
        found["shape"] = tuple(shape or ())[1:]
    return found


def _setting(key: str, value: Any) -> Any:
    """A setting in one form, whichever Keras wrote it."""
    if key == "activation":
        # A function of the project's own is an object whose `config` is its name.
        name = value.get("config") if isinstance(value, dict) else value
        return _ACTIVATIONS.get(str(name), name)
    if key == "axis":
        return (value[0] if isinstance(value, list) else value) % _RANK
    return tuple(value) if isinstance(value, list) else value


def _check_same(source: KerasFile, theirs: _Network, ours: _Network) -> None:
    """Raises UserError that names the first difference, and the key that it comes from."""
    wanted = ours.steps
    if not any(step.kind for step in theirs.steps):
        wanted = [Step(step.name, "", {}, (), step.shapes) for step in ours.steps if step.shapes]
    for number, (found, own) in enumerate(zip_longest(theirs.steps, wanted), start=1):
        difference = _difference(found, own)
        if difference:
            name = found.name if found else "the end"
            words = f"{difference}: the config must say what the file was trained with"
            raise UserError(f"{source.path}: layer {number}, {name}: {words}")


def _difference(found: Step | None, own: Step | None) -> str:
    """What differs, what was expected and which key decides it; "" where nothing does."""
    if found is None or own is None:
        there, expected = (f"a {step.kind or 'layer'}" if step else "nothing" for step in (found, own))
        return f"is {there}, expected {expected} (model.num_layers)"
    if found.kind != own.kind:
        key = "model.normalization" if {found.kind, own.kind} & {*_NORMALIZATIONS} else "model.num_layers"
        return f"is a {found.kind}, expected a {own.kind} ({key})"
    for key, value in own.settings.items():
        if key in found.settings and found.settings[key] != value:
            return f"has {key} {_shown(found.settings[key])}, expected {_shown(value)}{_key_of(key, own)}"
    if found.shapes != own.shapes:
        return f"has arrays of {_shown(found.shapes)}, expected {_shown(own.shapes)}{_key_of_shapes(found, own)}"
    if found.inputs != own.inputs:
        return "reads other layers, or in another order, expected the network of FlexUNet"
    return ""


def _key_of(setting: str, own: Step) -> str:
    keys = {"dilation_rate": "model.dilation", "shape": "image.height, image.width"}
    keys["activation"] = (
        "model.head" if own.settings.get("activation") in ("softmax", "sigmoid") else "model.activation"
    )
    if own.name == "stem":
        keys["strides"] = "model.stem_stride"
    return f" ({keys[setting]})" if setting in keys else ""


def _key_of_shapes(found: Step, own: Step) -> str:
    if len(found.shapes) != len(own.shapes) or not found.shapes or len(found.shapes[0]) != _RANK:
        return ""
    theirs, wanted = found.shapes[0], own.shapes[0]
    if theirs[:2] != wanted[:2]:
        return " (model.base_kernel)"
    return " ([[classes]], model.head)" if own.name == "head" else " (model.base_filters, model.num_layers)"


def _shown(value: Any) -> str:
    return json.dumps(value)


def _scale_notes(source: KerasFile, theirs: _Network, config: TrainerConfig) -> Iterator[str]:
    """What the config's `input_scale` stands for; raises UserError where the file says otherwise."""
    own, layer = config.model.input_scale, theirs.scale
    if not any(step.kind for step in theirs.steps):
        yield f"weights alone: activations, dilations and the scale of pixels ({own:.6g}) are those of the config"
    elif layer is None:
        if own != 1:
            raise UserError(
                f"{source.path}: its first convolution reads pixels from 0 to 255 as they are, the config scales them "
                f"by {own:.6g}, expected model.input_scale = 1"
            )
    elif layer.kind == "Lambda":
        if own == 1:
            raise UserError(
                f"{source.path}: the Lambda {layer.name} changes pixels before the first convolution, the config does "
                "not, expected model.input_scale = 0.00392156862745098, which is 1/255: input_normalize of the original"
            )
        yield f"{layer.name}: a Lambda behind the input, not run: pixels are scaled by model.input_scale, {own:.6g}"
    elif (layer.settings.get("scale"), layer.settings.get("offset", 0)) != (own, 0):
        found = {key: layer.settings.get(key) for key in ("scale", "offset")}
        raise UserError(
            f"{source.path}: {layer.name} scales pixels by {found['scale']} and adds {found['offset']}, the config "
            f"scales by {own:.6g} and adds 0, expected the same model.input_scale"
        )


def _point_notes(config: TrainerConfig) -> Iterator[str]:
    if target := config.operating_point.target:
        yield (
            f"operating_point.target, {target!r}, is left out: a training chooses thresholds on `eval`; this model has "
            "none, every pixel has its most probable class"
        )


def _assign(model: keras.Model, source: KerasFile, theirs: _Network, ours: _Network) -> None:
    own = (step for step in ours.steps if step.shapes)
    for found, step in zip((step for step in theirs.steps if step.shapes), own, strict=True):
        arrays = source.arrays(found.name)
        if not all(np.isfinite(array).all() for array in arrays):
            raise UserError(
                f"{source.path}: weights of {found.name} are not finite, expected numbers: a training diverged"
            )
        model.get_layer(step.name).set_weights(arrays)


def _swap_channels(model: keras.Model, ours: _Network) -> None:
    layer = model.get_layer(next(step.name for step in ours.steps if step.shapes))
    kernel, *others = layer.get_weights()
    layer.set_weights([kernel[:, :, ::-1], *others])
