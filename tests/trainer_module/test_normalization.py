"""One fused operation against the layer that Keras itself has."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer_module.normalization import BatchNormalization


def trained(kind: type[keras.layers.BatchNormalization], batches: np.ndarray, **settings: Any) -> list[np.ndarray]:
    """Of each batch the answer in training and the gradients of a sum over it; the weights; the answer afterwards."""
    layer, found = kind(**settings), []
    layer.build(batches.shape[1:])
    layer.set_weights([np.full(w.shape, 0.5 + i, np.float32) for i, w in enumerate(layer.weights)])
    layer.momentum = 0.7
    for batch in batches:
        x = tf.constant(batch)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(tf.cast(y, tf.float32) ** 3)
        sources = [x, *[variable.value for variable in layer.trainable_variables]]
        found += [y, *tape.gradient(loss, sources)]
    after = layer(batches[0], training=False)
    return [np.asarray(tf.cast(value, tf.float32)) for value in (*found, *layer.get_weights(), after)]


@pytest.mark.parametrize("shape", [(2, 3, 3, 5), (4, 8, 8, 16), (1, 1, 2, 4)])
def test_it_computes_and_keeps_what_keras_does(shape: tuple[int, ...]) -> None:
    """With few pixels n - 1 is far from n."""
    batches = np.random.default_rng(1).normal(3, 2, (2, *shape)).astype(np.float32)
    ours, theirs = (trained(kind, batches) for kind in (BatchNormalization, keras.layers.BatchNormalization))
    assert len(ours) == len(theirs) == 2 * 4 + 4 + 1
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-3, atol=1e-3 * np.abs(other).max())


@pytest.mark.parametrize("settings", [{"trainable": False}, {"dtype": "mixed_bfloat16"}])
def test_a_frozen_one_and_one_of_mixed_precision_do_too(settings: dict[str, Any]) -> None:
    batches = np.random.default_rng(1).normal(3, 2, (2, 2, 4, 4, 8)).astype(np.float32)
    ours, theirs = (
        trained(kind, batches, **settings) for kind in (BatchNormalization, keras.layers.BatchNormalization)
    )
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, other, rtol=2e-2, atol=2e-2 * np.abs(other).max())


def test_training_runs_one_operation_and_an_export_those_of_keras() -> None:
    layer = BatchNormalization()
    layer.build((None, 4, 4, 8))

    def operations(training: bool) -> set[str]:
        graph = (
            tf.function(lambda x: layer(x, training=training)).get_concrete_function(tf.TensorSpec([2, 4, 4, 8])).graph
        )
        return {operation.type for operation in graph.get_operations()}

    assert "FusedBatchNormV3" in operations(True) and "SquaredDifference" not in operations(True)
    assert "FusedBatchNormV3" not in operations(False) and "Rsqrt" in operations(False)
