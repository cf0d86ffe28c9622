"""FlexUNet, layer for layer as the seed's description has it."""

from typing import get_args

import keras
import numpy as np
import pytest
from layers import config_of

from flexunet.core.config.load import load_config
from flexunet.core.config.train import ModelConfig
from trainer_module.model import build_model, levels


def build(config: ModelConfig, size: int = 32, classes: int = 4) -> keras.Model:
    return build_model(config_of(config, size, classes))


def parameters(config: ModelConfig, classes: int) -> int:
    """An independent count: weights and biases of every convolution, four numbers a channel for batch norm and two for
    group norm."""
    filters = [config.base_filters * 2**i for i in range(config.num_layers)]
    kernels = [max(3, config.base_kernel - 2 * i) for i in range(config.num_layers)]
    total, channels, stride = 0, 3, config.stem_stride
    if stride > 1:
        total, channels = 3 * stride**2 * filters[0] + filters[0], filters[0]

    def double(channels_in: int, level: int) -> int:
        width, area = filters[level], kernels[level] ** 2
        count = area * channels_in * width + width + area * width * width + width
        return count + {"batch": 8, "group": 4, "none": 0}[config.normalization] * width

    for level in range(config.num_layers):
        total += double(channels, level)
        channels = filters[level]
    for level in reversed(range(config.num_layers - 1)):
        total += 4 * channels * filters[level] + filters[level]
        total += double(2 * filters[level], level)
        channels = filters[level]
    outputs = 1 if config.head == "sigmoid" else classes
    return total + stride**2 * channels * outputs + outputs


def test_the_seeds_model_has_124_996_900_parameters() -> None:
    config = load_config("synthetic-neu-seg")
    assert build_model(config).count_params() == 124_996_900


def test_the_smaller_model_has_1_958_308_parameters() -> None:
    assert build(ModelConfig(num_layers=5, base_filters=16, base_kernel=5), 128).count_params() == 1_958_308


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(num_layers=2, base_filters=4, base_kernel=3),
        ModelConfig(num_layers=3, base_filters=6, base_kernel=7, dilation=2),
        ModelConfig(num_layers=4, base_filters=8, base_kernel=9, normalization="batch"),
        ModelConfig(num_layers=3, base_filters=5, base_kernel=4, activation="mish"),
        ModelConfig(num_layers=5, base_filters=8, base_kernel=5, normalization="group"),
        ModelConfig(num_layers=3, base_filters=6, stem_stride=4),
    ],
)
def test_parameter_counts_follow_the_formula(config: ModelConfig) -> None:
    assert build(config).count_params() == parameters(config, classes=4)


def test_one_channel_for_two_classes_has_the_formulas_parameters() -> None:
    config = ModelConfig(num_layers=3, base_filters=4, head="sigmoid")
    assert build(config, classes=2).count_params() == parameters(config, classes=2)


# Written from the description of the seed's model: 3 levels, base_filters 4, base_kernel 7, dilation 3, dropout 0.1,
# batch normalization. Kind, filters, kernel, dilation, dropout rate.
TABLE = [
    ("Rescaling", None, None, None, None),
    *[("Conv2D", 4, 7, 3, None), ("BatchNormalization", None, None, None, None), ("Dropout", None, None, None, 0.0)],
    *[("Conv2D", 4, 7, 3, None), ("BatchNormalization", None, None, None, None)],
    ("MaxPooling2D", None, 2, None, None),
    *[("Conv2D", 8, 5, 2, None), ("BatchNormalization", None, None, None, None), ("Dropout", None, None, None, 0.1)],
    *[("Conv2D", 8, 5, 2, None), ("BatchNormalization", None, None, None, None)],
    ("MaxPooling2D", None, 2, None, None),
    *[("Conv2D", 16, 3, 1, None), ("BatchNormalization", None, None, None, None), ("Dropout", None, None, None, 0.2)],
    *[("Conv2D", 16, 3, 1, None), ("BatchNormalization", None, None, None, None)],
    *[("Conv2DTranspose", 8, 2, 1, None), ("Concatenate", None, None, None, None)],
    *[("Conv2D", 8, 5, 2, None), ("BatchNormalization", None, None, None, None), ("Dropout", None, None, None, 0.1)],
    *[("Conv2D", 8, 5, 2, None), ("BatchNormalization", None, None, None, None)],
    *[("Conv2DTranspose", 4, 2, 1, None), ("Concatenate", None, None, None, None)],
    *[("Conv2D", 4, 7, 3, None), ("BatchNormalization", None, None, None, None), ("Dropout", None, None, None, 0.0)],
    *[("Conv2D", 4, 7, 3, None), ("BatchNormalization", None, None, None, None)],
    *[("Conv2D", 3, 1, 1, None), ("Activation", None, None, None, None)],
]


def test_the_model_is_the_seeds_layer_for_layer() -> None:
    config = ModelConfig(
        num_layers=3, base_filters=4, base_kernel=7, dilation=3, dropout=0.1, normalization="batch", activation="mish"
    )
    layers = build(config, classes=3).layers[1:]
    found = [
        (
            type(layer).__name__,
            getattr(layer, "filters", None),
            getattr(layer, "kernel_size", getattr(layer, "pool_size", (None,)))[0],
            getattr(layer, "dilation_rate", (None,))[0],
            pytest.approx(layer.rate) if isinstance(layer, keras.layers.Dropout) else None,
        )
        for layer in layers
    ]
    assert found == TABLE
    convolutions = [layer for layer in layers if type(layer) is keras.layers.Conv2D]
    assert {layer.activation.__name__ for layer in convolutions[:-1]} == {"mish"}
    assert {type(layer.kernel_initializer).__name__ for layer in convolutions[:-1]} == {"HeNormal"}
    assert {layer.padding for layer in convolutions[:-1]} == {"same"}


@pytest.mark.parametrize("name", get_args(ModelConfig.model_fields["activation"].annotation))
def test_every_activation_is_keras_own_of_that_name(name: str) -> None:
    layer = build(ModelConfig(num_layers=2, base_filters=2, activation=name), 8).get_layer("encoder0_a")
    assert layer.activation is keras.activations.get(name)


def test_layers_drop_other_places_than_each_other_and_a_seed_of_their_own_repeats() -> None:
    def dropped(train_seed: int, **settings: int) -> dict[str, bytes]:
        config = ModelConfig(num_layers=3, base_filters=4, dropout=0.3, **settings)
        model = build_model(config_of(config, 16, seed=train_seed))
        ones = np.ones((1, 8, 8, 8), np.float32)
        names = ("encoder1_dropout", "decoder1_dropout")
        return {name: np.asarray(model.get_layer(name)(ones, training=True)).tobytes() for name in names}

    first = dropped(0)
    assert first["encoder1_dropout"] != first["decoder1_dropout"]
    assert first == dropped(0) and first != dropped(1)
    assert dropped(0, dropout_seed=5) == dropped(1, dropout_seed=5)


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


@pytest.mark.parametrize("stride", [2, 4])
def test_behind_a_stem_every_level_is_coarser_and_a_shift_by_its_pixels_stays_a_shift(stride: int) -> None:
    """Neighbouring pixels of one cell of the stem may get different answers: the output layer has weights for each."""
    layers = ModelConfig(num_layers=2, base_filters=4, base_kernel=3, stem_stride=stride)
    model = build(layers, 128)
    assert [layer.name for layer in model.layers][:3] == ["pixels", "scale", "stem"]
    sides = {name: model.get_layer(name).output.shape[1] for name in ("encoder0_b", "bridge1_b", "decoder0_b", "head")}
    assert sides == {"encoder0_b": 128 // stride, "bridge1_b": 64 // stride, "decoder0_b": 128 // stride, "head": 128}
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 128, 128, 3)).astype(np.float32)
    # A pixel of the bridge is as wide as the divisor; away from the border a shift by that many is a shift.
    step = layers.size_divisor
    assert step == 2 * stride
    answer, moved = (model(x).numpy()[0] for x in (pixels, np.roll(pixels, step, axis=2)))
    middle = slice(60, 68)
    np.testing.assert_allclose(moved[middle, middle], np.roll(answer, step, axis=1)[middle, middle], atol=1e-5)
    assert np.ptp(answer[60:62, 60:62], axis=(0, 1)).max() > 1e-4


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


def test_a_standardized_input_makes_light_no_matter() -> None:
    config = ModelConfig(num_layers=2, base_filters=4, base_kernel=3, standardize=True)
    model = build(config)
    assert model.count_params() == parameters(config, classes=4)
    pixels = np.random.default_rng(0).uniform(50, 100, (2, 32, 32, 3)).astype(np.float32)
    brighter = pixels * np.array([1.0, 2.0]).reshape(2, 1, 1, 1) + 30
    np.testing.assert_allclose(model(brighter), model(pixels), atol=1e-3)
    assert np.isfinite(model(np.full((1, 32, 32, 3), 128.0))).all()
