"""An encoder of keras.applications: what Keras' own network computes, begun with a file, frozen, exported."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray
from processes import python
from tensorflow.python.framework import ops

from flexunet.core.config.section import part_of
from flexunet.core.config.train import FLEXUNET, ModelConfig, TrainerConfig
from flexunet.core.encoder_file import encoder_digest
from flexunet.core.errors import UserError
from flexunet.serving.c_api import load_arrays, save_arrays
from trainer_module.cost import draw_diagram, layer_costs
from trainer_module.encoder import ENCODERS, encoder_layers, load_encoder
from trainer_module.export import export_model
from trainer_module.model import bridge_of, build_model
from trainer_module.trainer import Job, Trained, check_encoder, train

NAME = "efficientnetv2-b0"
LAYERS = {"encoder": NAME, "num_layers": 5, "base_filters": 4, "base_kernel": 3, "normalization": "batch"}
# Of scale, offset, mean and variance.
RANGES = ((0.5, 1.5), (-0.5, 0.5), (-0.1, 0.1), (0.5, 1.5))
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 64, 32, 3)).astype(np.uint8)


@dataclass(frozen=True)
class Published:
    """A file of weights as Keras publishes it, and what the network that wrote it says of PIXELS at each stage."""

    file: Path
    features: list[NDArray[np.float32]]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    network = tf_keras.applications.EfficientNetV2B0(include_top=False, weights=None, input_shape=PIXELS.shape[1:])
    generator = np.random.default_rng(1)
    for layer in network.layers:
        if isinstance(layer, tf_keras.layers.BatchNormalization):
            # What is left out of these would not show in statistics that nothing was learnt for.
            layer.set_weights([generator.uniform(*ends, layer.weights[0].shape) for ends in RANGES])
    file = tmp_path_factory.mktemp("published") / ENCODERS[NAME].file
    network.save_weights(file)
    outputs = [network.get_layer(stage).output for stage in ENCODERS[NAME].stages]
    return Published(file, [stage.numpy() for stage in tf_keras.Model(network.input, outputs)(PIXELS)])


@pytest.fixture(scope="module")
def config_of(make_config: Any) -> Any:
    def of(height: int = 32, **train: Any) -> TrainerConfig:
        config = make_config(
            image={"height": height, "width": 32},
            model=LAYERS,
            train={"epochs": 1, "preview_images": 0, "ema_decay": 0.5, **train},
        )
        return part_of(config, TrainerConfig)

    return of


@pytest.fixture(scope="module")
def plain(config_of: Any) -> keras.Model:
    """For images of 64x32, not frozen."""
    return build_model(config_of(height=64))


def test_every_encoder_of_the_config_is_known() -> None:
    assert get_args(ModelConfig.model_fields["encoder"].annotation) == (FLEXUNET, *ENCODERS)
    assert ModelConfig(encoder=NAME).size_divisor == 32


def test_the_features_are_those_of_the_network_that_wrote_the_file(published: Published, plain: keras.Model) -> None:
    """Keras 2 wrote it, as it wrote those that are published; pixels go in as they are, 0 to 255."""
    model = plain
    load_encoder(model, NAME, published.file)
    stages = [model.get_layer(stage).output for stage in ENCODERS[NAME].stages]
    assert stages[-1] is bridge_of(model, ModelConfig(encoder=NAME))
    assert [stage.shape[1] for stage in stages] == [32, 16, 8, 4, 2]
    for found, expected in zip(keras.Model(model.input, stages)(PIXELS), published.features, strict=True):
        assert np.ptp(expected) > 0.1
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    decoder = [layer.output.shape[1:3] for layer in model.layers if layer.name.endswith("_up")]
    assert decoder == [(4, 2), (8, 4), (16, 8), (32, 16), (64, 32)] and model.output_shape == (None, 64, 32, 4)


def _with(change: Any, source: Path, target: Path) -> Path:
    shutil.copy(source, target)
    with h5py.File(target, "r+") as file:
        change(file)
    return target


def _resized(file: h5py.File) -> None:
    group = file["block2a_expand_conv/block2a_expand_conv"]
    del group["kernel:0"]
    group["kernel:0"] = np.zeros((3, 3, 24, 64), np.float32)


def _not_finite(file: h5py.File) -> None:
    file["stem_bn/stem_bn/beta:0"][3] = np.nan


def _of_another_network(file: h5py.File) -> None:
    file.attrs["layer_names"] = [name for name in file.attrs["layer_names"] if name != "block6h_project_bn"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            _resized,
            r".*: the layer block2a_expand_conv has arrays of \[\(3, 3, 24, 64\)\], expected \[\(3, 3, 16, 64\)\]",
        ),
        (
            _of_another_network,
            ".*: the layer block6h_project_bn has arrays of nothing, expected .*: weights of another ",
        ),
        (_not_finite, ".*: weights of stem_bn are not finite, expected numbers: fetch the file again"),
    ],
)
def test_a_file_of_another_network_is_one_line_and_takes_nothing(
    published: Published, plain: keras.Model, tmp_path: Path, change: Any, line: str
) -> None:
    before = [np.array(weight) for weight in plain.get_weights()]
    with pytest.raises(UserError, match=line) as refused:
        load_encoder(plain, NAME, _with(change, published.file, tmp_path / "wrong.h5"))
    assert "\n" not in str(refused.value)
    for weight, was in zip(plain.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, was)


@pytest.fixture(scope="module")
def config(published: Published, config_of: Any) -> TrainerConfig:
    return config_of(encoder_weights=str(published.file), freeze_encoder=True)


@pytest.fixture(scope="module")
def frozen(published: Published, config: TrainerConfig) -> keras.Model:
    """What the training begins with, but for the decoder's random weights."""
    model = build_model(config)
    load_encoder(model, NAME, published.file)
    return model


def test_a_file_that_changed_since_the_run_began_is_refused(config: TrainerConfig) -> None:
    check_encoder(config.train, {"encoder": encoder_digest(config.train)})
    with pytest.raises(UserError, match=r"^train.encoder_weights: .* is not what it was when the run began, expected"):
        check_encoder(config.train, {"encoder": "0" * 64})


@pytest.fixture(scope="module")
def trained(config: TrainerConfig, tmp_path_factory: pytest.TempPathFactory, write_tiles: Any) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    write_tiles(folder / "train.gz", 8)
    write_tiles(folder / "eval.gz", 4, seed=1)
    patterns = [str(folder / "train.gz")], [str(folder / "eval.gz")]
    return train(Job(*patterns, folder / "logs", folder / "checkpoints"), config)


@pytest.mark.slow
def test_what_is_frozen_stays_as_the_file_has_it_and_the_decoder_learns(trained: Trained, frozen: keras.Model) -> None:
    """With averaged weights, whose statistics are measured anew: those of the decoder alone."""
    encoder = {layer.name for layer in encoder_layers(frozen, NAME) if layer.weights}
    moved = {
        layer.name
        for layer in trained.model.layers
        if layer.weights
        for mine, was in zip(layer.get_weights(), frozen.get_layer(layer.name).get_weights(), strict=True)
        if not np.array_equal(mine, was)
    }
    decoder = {layer.name for layer in trained.model.layers if layer.weights} - encoder
    assert moved == decoder and "decoder4_a_norm" in decoder
    assert "stem_conv" in encoder and all(layer.name in decoder for layer in frozen.layers if layer.trainable_weights)


def test_a_frozen_encoder_is_the_same_function_in_training(plain: keras.Model, frozen: keras.Model) -> None:
    """Its normalization and its dropped blocks would else be those of the batch."""

    def differs(model: keras.Model) -> bool:
        encoder = keras.Model(model.input, bridge_of(model, ModelConfig(encoder=NAME)))
        pixels = PIXELS[:, : model.input_shape[1]]
        return not np.allclose(encoder(pixels, training=True), encoder(pixels, training=False), atol=1e-5)

    assert differs(plain) and not differs(frozen)


SESSION = """
import sys
from pathlib import Path
from flexunet.serving.c_api import SavedModel, load_arrays, save_arrays

directory, folder = map(Path, sys.argv[1:])
with SavedModel(directory) as model:
    save_arrays(folder / "outputs", model.run("probabilities", load_arrays(folder / "inputs")))
assert "tensorflow" not in sys.modules
"""


@pytest.mark.slow
def test_an_export_answers_in_tf_servings_loader_without_the_file(
    trained: Trained, config: TrainerConfig, tmp_path: Path
) -> None:
    export_model(trained.model, config, {}, tmp_path / "export")
    tiles = PIXELS[:, :32]
    save_arrays(tmp_path / "inputs", {"pixels": tiles})
    python("-c", SESSION, tmp_path / "export", tmp_path)
    [probabilities] = load_arrays(tmp_path / "outputs").values()
    np.testing.assert_allclose(probabilities, trained.model(tiles), atol=1e-4)


def test_the_cost_is_what_tensorflow_counts(config: TrainerConfig, frozen: keras.Model, tmp_path: Path) -> None:
    encoder = {layer.name for layer in encoder_layers(frozen, NAME)}
    counted = sum(cost.multiply_accumulates for cost in layer_costs(frozen) if cost.name in encoder)
    function = tf.function(keras.Model(frozen.input, bridge_of(frozen, config.model)))
    graph = function.get_concrete_function(tf.TensorSpec((1, 32, 32, 3))).graph
    convolutions = [op for op in graph.get_operations() if op.type in ("Conv2D", "DepthwiseConv2dNative")]
    flops = [ops.get_stats_for_node_def(graph, op.node_def, "flops").value for op in convolutions]
    assert {op.type for op in convolutions} == {"Conv2D", "DepthwiseConv2dNative"}
    # A multiplication and an addition each.
    assert counted == sum(flops) / 2
    draw_diagram(config, tmp_path / "model.svg")
    drawn = (tmp_path / "model.svg").read_text()
    boxes = ("16x16x16", "8x8x32", "4x4x48", "2x2x112", "1x1x192", "32x32x4", "16x16x8", "2x2x64")
    assert [box for box in boxes if f"<!-- {box} -->" not in drawn] == []
