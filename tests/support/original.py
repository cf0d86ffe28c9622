"""FlexUNet's layers in the order and with the names that the original's own code gives them, written anew."""

from typing import Any

import numpy as np
import tensorflow as tf


def mish(x: Any) -> Any:
    """A function of the project's own, as the original has one."""
    return x * tf.tanh(tf.math.softplus(x))


def original_layers(
    k: Any,
    size: tuple[int, int],
    levels: int,
    filters: int,
    base_kernel: int,
    classes: int = 4,
    lambda_in: bool = True,
    batch: bool = False,
    dilation: int = 1,
    activation: Any = "relu",
    swapped: bool = False,
) -> Any:
    """The layers with Keras 2 (`tf_keras`) or 3, by default as the original has them; weights are random.

    `swapped` concatenates [skip, up]: the same shapes, another network.
    """

    def convolution(x: Any, level: int) -> Any:
        kernel, rate = max(3, base_kernel - 2 * level), max(1, dilation - level)
        x = k.layers.Conv2D(
            filters * 2**level, (kernel, kernel), strides=(1, 1), activation=activation, padding="same",
            kernel_initializer="he_normal", dilation_rate=(rate, rate),
        )(x)  # fmt: skip
        return k.layers.BatchNormalization()(x) if batch else x

    def double(x: Any, level: int) -> Any:
        return convolution(k.layers.Dropout(0.03 * level)(convolution(x, level)), level)

    k.backend.clear_session()
    inputs = k.layers.Input((*size, 3))
    x = k.layers.Lambda(lambda pixels: pixels / 255)(inputs) if lambda_in else inputs
    skips = []
    for level in range(levels - 1):
        skips.append(double(x, level))
        x = k.layers.MaxPool2D(pool_size=(2, 2))(skips[-1])
    x = double(x, levels - 1)
    for level in reversed(range(levels - 1)):
        up = k.layers.Conv2DTranspose(filters * 2**level, (2, 2), strides=(2, 2), padding="same")(x)
        x = double(k.layers.concatenate([skips[level], up] if swapped else [up, skips[level]]), level)
    outputs = k.layers.Conv2D(classes, (1, 1), activation="sigmoid" if classes == 1 else "softmax")(x)
    model = k.Model(inputs=[inputs], outputs=[outputs])
    generator = np.random.default_rng(7)
    # Far from what an initializer gives, variances positive: batch statistics and biases must have been taken, too.
    moved = [w if w.ndim > 1 else np.abs(w + generator.normal(0.1, 0.1, w.shape)) for w in model.get_weights()]
    model.set_weights(moved)
    return model
