"""What a model costs: layers, parameters, multiply-accumulates, activation memory, and a diagram of its levels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

import keras

from flexunet.core.config.train import FLEXUNET, TrainerConfig
from flexunet.core.errors import UserError
from trainer_module.encoder import ENCODERS, encoder_features
from trainer_module.model import Level, build_model, levels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

DIAGRAM_SUFFIXES: Final = (".png", ".svg", ".pdf")
_FLOAT_BYTES: Final = 4


@dataclass(frozen=True)
class LayerCost:
    """One layer; multiply-accumulates and outputs are for one image."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_accumulates: int

    @property
    def outputs(self) -> int:
        """How many numbers the layer gives."""
        return math.prod(self.output_shape)


@dataclass(frozen=True)
class ModelCost:
    """A whole model: multiply-accumulates are for one image, activations for a training step of `batch_size` images."""

    parameters: int
    multiply_accumulates: int
    activation_bytes: int
    batch_size: int
    layers: tuple[LayerCost, ...]


def model_cost(config: TrainerConfig, batch_size: int) -> ModelCost:
    """What the model of a configuration costs, found by building it."""
    model = build_model(config)
    costs = layer_costs(model)
    operations = sum(cost.multiply_accumulates for cost in costs)
    return ModelCost(model.count_params(), operations, activation_bytes(costs, batch_size), batch_size, tuple(costs))


def layer_costs(model: keras.Model) -> list[LayerCost]:
    """The layers in order; only convolutions are counted as multiply-accumulates, the rest is a hundredth of them."""
    return [
        LayerCost(
            layer.name,
            type(layer).__name__,
            tuple(layer.output.shape[1:]),
            layer.count_params(),
            _multiply_accumulates(layer),
        )
        for layer in model.layers
        if not isinstance(layer, keras.layers.InputLayer)
    ]


def activation_bytes(costs: Sequence[LayerCost], batch_size: int) -> int:
    """What a training step keeps for its backward pass: the float32 outputs of all layers, for the whole batch."""
    return sum(cost.outputs for cost in costs) * batch_size * _FLOAT_BYTES


def _multiply_accumulates(layer: keras.layers.Layer) -> int:
    if isinstance(layer, keras.layers.Conv2DTranspose):
        height, width, channels = layer.input.shape[1:]
        return height * width * channels * layer.filters * math.prod(layer.kernel_size)
    if isinstance(layer, keras.layers.Conv2D):
        height, width, filters = layer.output.shape[1:]
        return height * width * filters * layer.input.shape[-1] * math.prod(layer.kernel_size)
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        height, width, filters = layer.output.shape[1:]
        return height * width * filters * math.prod(layer.kernel_size)
    return 0


def check_diagram(path: Path) -> None:
    """Raises UserError where the suffix of `path` is none of DIAGRAM_SUFFIXES."""
    if path.suffix not in DIAGRAM_SUFFIXES:
        raise UserError(f"--diagram {path}: expected a file that ends in one of {', '.join(DIAGRAM_SUFFIXES)}")


def draw_diagram(config: TrainerConfig, path: Path) -> None:
    """Draws the U: a box for each double convolution with filters, kernel, dilation and dropout, skips as arrows.

    Of another encoder than FlexUNet's, the layers whose features the decoder reads.

    Raises:
      UserError: the suffix of `path` is none of DIAGRAM_SUFFIXES.
    """
    check_diagram(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    *upper, bridge = levels(config.model)
    figure = Figure(figsize=(11, 1.1 * len(upper) + 2.1), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.axis("off")
    words = _encoder_words(config)
    down = {level: _box(axes, 0 if level == bridge.index else -1.6, level, words[level]) for level in words}
    up = {level.index: _box(axes, 1.6, level.index, _words(level, config)) for level in upper}
    for boxes in (down, {bridge.index: down[bridge.index], **dict(reversed(up.items()))}):
        for start, end in pairwise(boxes.values()):
            _arrow(axes, start, end)
    for level in sorted(down.keys() & up.keys()):
        _arrow(axes, down[level], up[level], "skip")
    axes.text(-1.6, 0.6, f"image {config.image.height}x{config.image.width}x3", ha="center")
    axes.text(
        1.6, 0.6, f"{config.model.head}: {', '.join(c.name for c in config.classes)}", ha="center", parse_math=False
    )
    axes.set(xlim=(-2.6, 2.6), ylim=(-bridge.index - 0.5, 0.8))
    figure.savefig(path)


def _encoder_words(config: TrainerConfig) -> dict[int, str]:
    """Of the boxes on the way down, by level, the deepest last."""
    if config.model.encoder == FLEXUNET:
        return {level.index: _words(level, config) for level in levels(config.model)}
    name = config.model.encoder
    features = encoder_features(keras.Input((config.image.height, config.image.width, 3)), name)
    stages = zip(ENCODERS[name].stages, features, strict=True)
    return {
        level: "x".join(map(str, feature.shape[1:])) + f"\n{name}: {stage}"
        for level, (stage, feature) in enumerate(stages, start=1)
    }


def _words(level: Level, config: TrainerConfig) -> str:
    height, width = (
        side // config.model.stem_stride >> level.index for side in (config.image.height, config.image.width)
    )
    details = f"{level.kernel}x{level.kernel} kernel, dilation {level.dilation}, dropout {level.dropout:.2g}"
    return f"{height}x{width}x{level.filters}\n{details}"


def _box(axes: "Axes", x: float, level: int, words: str) -> "Text":
    return axes.text(
        x,
        -level,
        words,
        ha="center",
        va="center",
        fontsize=9,
        bbox={"boxstyle": "round", "facecolor": "#e8eef7", "edgecolor": "#3b5b92"},
    )


def _arrow(axes: "Axes", start: "Text", end: "Text", label: str = "") -> None:
    """From the edge of a box to that of another: matplotlib knows how wide their words are only when it draws."""
    ends = {"patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch(), "shrinkA": 0, "shrinkB": 0}
    (x0, y0), (x1, y1) = start.get_position(), end.get_position()
    axes.annotate("", xy=(x1, y1), xytext=(x0, y0), arrowprops={"arrowstyle": "->", "color": "#3b5b92", **ends})
    if label:
        axes.text((x0 + x1) / 2, y0 + 0.08, label, ha="center", fontsize=8, color="#3b5b92")
