"""FlexUNet, layer for layer as the seed's description has it."""

import keras
import numpy as np
import pytest

from pipeline.config import ModelConfig, load_config
from trainer_module.model import build_model, levels


def build(config: ModelConfig, size: int = 32, classes: int = 4) -> keras.Model:
    return build_model(size, size, classes, config, seed=0)


def parameters(config: ModelConfig, classes: int) -> int:
    """An independent count: weights and biases of every convolution, four numbers a channel for batch norm."""
    filters = [config.base_filters * 2**i for i in range(config.num_layers)]
    kernels = [max(3, config.base_kernel - 2 * i) for i in range(config.num_layers)]
    total, channels = 0, 3

    def double(channels_in: int, level: int) -> int:
        width, area = filters[level], kernels[level] ** 2
        count = area * channels_in * width + width + area * width * width + width
        return count + (8 * width if config.normalization == "batch" else 0)

    for level in range(config.num_layers):
        total += double(channels, level)
        channels = filters[level]
    for level in reversed(range(config.num_layers - 1)):
        total += 4 * channels * filters[level] + filters[level]
        total += double(2 * filters[level], level)
        channels = filters[level]
    outputs = 1 if config.head == "sigmoid" else classes
    return total + channels * outputs + outputs


def test_the_seeds_model_has_124_996_900_parameters() -> None:
    config = load_config("synthetic-neu-seg")
    assert build_model(256, 256, 4, config.model, 0).count_params() == 124_996_900


def test_the_smaller_model_has_1_958_308_parameters() -> None:
    assert build(ModelConfig(num_layers=5, base_filters=16, base_kernel=5), 128).count_params() == 1_958_308


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(num_layers=2, base_filters=4, base_kernel=3),
        ModelConfig(num_layers=3, base_filters=6, base_kernel=7, dilation=2),
        ModelConfig(num_layers=4, base_filters=8, base_kernel=9, normalization="batch"),
        ModelConfig(num_layers=3, base_filters=5, base_kernel=4, activation="mish"),
    ],
)
def test_parameter_counts_follow_the_formula(config: ModelConfig) -> None:
    assert build(config).count_params() == parameters(config, classes=4)


def test_levels_shrink_kernels_and_dilations_and_grow_dropout() -> None:
    found = levels(ModelConfig(num_layers=4, base_filters=16, base_kernel=9, dilation=2, dropout=0.03))
    assert [level.filters for level in found] == [16, 32, 64, 128]
    assert [level.kernel for level in found] == [9, 7, 5, 3]
    assert [level.dilation for level in found] == [2, 1, 1, 1]
    assert [level.dropout for level in found] == pytest.approx([0, 0.03, 0.06, 0.09])


def test_the_layers_stand_in_order() -> None:
    model = build(ModelConfig(num_layers=2, base_filters=4, base_kernel=5, dilation=2, dropout=0.1))
    names = [layer.name for layer in model.layers]
    assert names == [
        "pixels",
        "scale",
        "encoder0_a",
        "encoder0_dropout",
        "encoder0_b",
        "encoder0_pool",
        "bridge1_a",
        "bridge1_dropout",
        "bridge1_b",
        "decoder0_up",
        "decoder0_concatenate",
        "decoder0_a",
        "decoder0_dropout",
        "decoder0_b",
        "head",
        "probabilities",
    ]
    up, decoder = model.get_layer("decoder0_up"), model.get_layer("decoder0_a")
    assert (up.filters, up.kernel_size, up.strides, up.activation.__name__) == (4, (2, 2), (2, 2), "linear")
    assert (decoder.filters, decoder.kernel_size, decoder.dilation_rate) == (4, (5, 5), (2, 2))
    assert model.get_layer("bridge1_dropout").rate == pytest.approx(0.1)


@pytest.mark.parametrize("normalization", ["none", "batch", "group"])
@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_everything_after_the_head_sees_probabilities_of_all_classes(normalization: str, head: str) -> None:
    config = ModelConfig(num_layers=2, base_filters=11, normalization=normalization, head=head)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    probabilities = build(config, 16, classes=2)(pixels).numpy()
    assert probabilities.shape == (2, 16, 16, 2)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-6)


def test_the_dropout_repeats_for_a_seed() -> None:
    config = ModelConfig(num_layers=2, base_filters=4, dropout=0.5)
    pixels = np.full((1, 16, 16, 3), 100, np.uint8)

    def once() -> np.ndarray:
        keras.utils.set_random_seed(1)
        return build(config, 16)(pixels, training=True).numpy()

    np.testing.assert_array_equal(once(), once())
