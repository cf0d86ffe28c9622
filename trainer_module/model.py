"""FlexUNet: a U-Net whose depth, width, kernels, dilations and dropout all follow from a few numbers.

Level i of `num_layers` (the bridge is the last) has `base_filters * 2**i` filters, kernel `max(3, base_kernel - 2 i)`,
dilation `max(1, dilation - i)` and dropout `dropout * i`. Source: the FlexUNet image segmentation experiment, 2026;
U-Net: Ronneberger et al. 2015, arXiv:1505.04597. With `stem_stride` all levels are at a half or a quarter of the
image's resolution: a convolution without overlap leads there, and a transposed one, the output layer, back. With
another `encoder` the bridge and the levels above it down to half the resolution are those of trainer_module/encoder.py,
and the decoder's are FlexUNet's; its level 0, at the image's resolution, has no skip.
"""

import math
import zlib
from dataclasses import dataclass

import keras
import tensorflow as tf

from flexunet.core.config.train import FLEXUNET, ModelConfig, TrainerConfig
from trainer_module.encoder import ENCODERS, encoder_features
from trainer_module.normalization import BatchNormalization

# Batches of 2 to 8 images are too small for batch statistics; 8 channels a group, Wu & He 2018, arXiv:1803.08494.
_CHANNELS_PER_GROUP = 8


@dataclass(frozen=True)
class Level:
    """What both double convolutions of one level share."""

    index: int
    filters: int
    kernel: int
    dilation: int
    dropout: float


def levels(config: ModelConfig) -> list[Level]:
    """The levels from the top (the resolution behind the stem) to the bridge."""
    return [
        Level(
            index=i,
            filters=config.base_filters * 2**i,
            kernel=max(3, config.base_kernel - 2 * i),
            dilation=max(1, config.dilation - i),
            dropout=config.dropout * i,
        )
        for i in range(config.halvings + 1)
    ]


def build_model(config: TrainerConfig) -> keras.Model:
    """Pixels `[N, height, width, 3]`, 0 to 255 -> class probabilities float32 `[N, height, width, C]`."""
    layers, seed = config.model, config.train.seed
    inputs = keras.Input((config.image.height, config.image.width, 3), name="pixels")
    if layers.encoder == FLEXUNET:
        *skips, x = _features(inputs, layers, seed)
    else:
        *skips, x = None, *encoder_features(inputs, layers.encoder, config.train.freeze_encoder)
    for level, skip in reversed(list(zip(levels(layers)[:-1], skips, strict=True))):
        name = f"decoder{level.index}"
        x = keras.layers.Conv2DTranspose(level.filters, 2, strides=2, padding="same", name=f"{name}_up")(x)
        if skip is not None:
            x = keras.layers.Concatenate(name=f"{name}_concatenate")([x, skip])
        x = _double_convolution(x, level, "decoder", layers, seed)
    return keras.Model(inputs, _head(x, len(config.classes), layers), name="flexunet")


def bridge_of(model: keras.Model, config: ModelConfig) -> keras.KerasTensor:
    """The deepest features of a model, `[N, height, width, channels]`."""
    if config.encoder != FLEXUNET:
        return model.get_layer(ENCODERS[config.encoder].stages[-1]).output
    bridge = f"bridge{levels(config)[-1].index}"
    return [layer for layer in model.layers if layer.name.startswith(bridge)][-1].output


def _features(inputs: keras.KerasTensor, config: ModelConfig, seed: int) -> list[keras.KerasTensor]:
    """Of each level, the bridge last."""
    x = keras.layers.Rescaling(config.input_scale, name="scale")(inputs)
    if config.standardize:
        # As nnU-Net does with all but CT: light that differs from image to image is nothing to learn.
        x = keras.layers.LayerNormalization((1, 2, 3), 1e-6, center=False, scale=False, name="standardize")(x)
    if config.stem_stride > 1:
        x = keras.layers.Conv2D(config.base_filters, config.stem_stride, config.stem_stride, name="stem")(x)
    *upper, bridge = levels(config)
    features = []
    for level in upper:
        x = _double_convolution(x, level, "encoder", config, seed)
        features.append(x)
        x = keras.layers.MaxPooling2D(2, name=f"encoder{level.index}_pool")(x)
    return [*features, _double_convolution(x, bridge, "bridge", config, seed)]


def _double_convolution(
    x: keras.KerasTensor, level: Level, part: str, config: ModelConfig, seed: int
) -> keras.KerasTensor:
    name = f"{part}{level.index}"
    x = _convolution(x, level, f"{name}_a", config)
    x = keras.layers.Dropout(level.dropout, seed=_dropout_seed(config, seed, name), name=f"{name}_dropout")(x)
    return _convolution(x, level, f"{name}_b", config)


def _convolution(x: keras.KerasTensor, level: Level, name: str, config: ModelConfig) -> keras.KerasTensor:
    x = keras.layers.Conv2D(
        level.filters,
        level.kernel,
        padding="same",
        dilation_rate=level.dilation,
        activation=config.activation,
        kernel_initializer="he_normal",
        name=name,
    )(x)
    if config.normalization == "batch":
        # Over all replicas: the share of a batch that one GPU holds may be a single image.
        synchronized = tf.distribute.get_strategy().num_replicas_in_sync > 1
        return BatchNormalization(synchronized=synchronized, name=f"{name}_norm")(x)
    if config.normalization == "group":
        groups = math.gcd(level.filters, max(1, level.filters // _CHANNELS_PER_GROUP))
        return keras.layers.GroupNormalization(groups, name=f"{name}_norm")(x)
    return x


def _dropout_seed(config: ModelConfig, seed: int, layer: str) -> int:
    """A seed of each layer's own: equal ones would drop the same places in encoder and decoder."""
    return (seed if config.dropout_seed is None else config.dropout_seed) + zlib.crc32(layer.encode()) % 2**20


def _head(x: keras.KerasTensor, num_classes: int, config: ModelConfig) -> keras.KerasTensor:
    channels = 1 if config.head == "sigmoid" else num_classes
    if config.stem_stride > 1:
        x = keras.layers.Conv2DTranspose(channels, config.stem_stride, config.stem_stride, name="head")(x)
    else:
        x = keras.layers.Conv2D(channels, 1, name="head")(x)
    # float32 whatever the precision policy: probabilities near 1 differ by less than half precision can hold.
    x = keras.layers.Activation(config.head, dtype="float32", name="probabilities")(x)
    if config.head == "sigmoid":
        return keras.ops.concatenate([1 - x, x], axis=-1)
    return x
