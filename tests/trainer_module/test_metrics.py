"""Counts in the graph against NumPy and scikit-learn."""

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import confusion_matrix

from flexunet.core import scores
from flexunet.core.features import IGNORE_ID
from trainer_module.metrics import ForegroundDice, count_matrix


@pytest.mark.parametrize("seed", range(5))
def test_counts_are_scikit_learns_confusion_matrix(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth, predicted = generator.integers(0, 4, (2, 6, 17, 13)).astype(np.uint8)
    expected = confusion_matrix(truth.ravel(), predicted.ravel(), labels=range(4))
    np.testing.assert_array_equal(count_matrix(truth, predicted, 4), expected)


def test_literal_counts_with_rows_as_truth() -> None:
    truth = np.array([[0, 0, 1, 1, 1, IGNORE_ID]], np.uint8)
    predicted = np.array([[0, 1, 1, 0, 0, 1]], np.uint8)
    np.testing.assert_array_equal(count_matrix(truth, predicted, 2), [[1, 1], [2, 1]])


def test_the_metric_pools_over_batches_and_resets() -> None:
    metric = ForegroundDice(3)
    truth = np.random.default_rng(0).integers(0, 3, (4, 8, 8)).astype(np.uint8)
    predicted = np.random.default_rng(1).integers(0, 3, (4, 8, 8))
    for part in range(4):
        metric.update_state(truth[part : part + 1], tf.one_hot(predicted[part : part + 1], 3))
    expected = scores.foreground_dice(confusion_matrix(truth.ravel(), predicted.ravel(), labels=range(3)))
    assert float(metric.result()) == pytest.approx(float(expected), rel=1e-6)
    metric.reset_state()
    assert np.isnan(float(metric.result()))


def test_a_stray_pixel_of_a_class_that_eval_lacks_does_not_choose_the_epoch() -> None:
    truth = np.zeros((1, 8, 8), np.uint8)
    truth[:, :4] = 1
    half, most = truth.copy(), truth.copy()
    half[:, 2:4] = most[:, 3] = 0
    # Of a class that no mask has.
    most[0, 7, 7] = 2

    def score(predicted: np.ndarray) -> float:
        metric = ForegroundDice(3)
        metric.update_state(truth, tf.one_hot(predicted, 3))
        return float(metric.result())

    assert (score(half), score(most)) == (pytest.approx(2 * 16 / 48), pytest.approx(2 * 24 / 56))


def test_counts_stay_exact_beyond_what_float32_holds() -> None:
    metric = ForegroundDice(2)
    metric.counts.assign(np.array([[2.0**24, 0], [0, 2.0**24]]))
    metric.update_state(np.array([[[1]]], np.uint8), tf.constant([[[[0.0, 1.0]]]]))
    assert float(metric.counts[1, 1]) == 2**24 + 1


COMPILED_FIT = """
import warnings
import keras
import numpy as np
from flexunet.core.config.train import TrainConfig
from trainer_module.losses import make_loss
from trainer_module.metrics import ForegroundDice

warnings.simplefilter("error")
# Of other weights one in some makes every pixel background, whose Dice is 0.
keras.utils.set_random_seed(1)
model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(3, 1, activation="softmax")])
loss = make_loss(TrainConfig(loss="focal_dice", hardest_pixels=0.25), [])
model.compile("sgd", loss, metrics=[ForegroundDice(3)], jit_compile=True)
pixels = np.random.default_rng(0).random((4, 8, 8, 3)).astype(np.float32)
class_ids = np.random.default_rng(1).integers(0, 3, (4, 8, 8)).astype(np.uint8)
history = model.fit(pixels, class_ids, validation_data=(pixels, class_ids), batch_size=2, verbose=0)
print(history.history["val_foreground_dice"][0])
"""


def test_counts_compile_with_xla_inside_fit(run_forked: Callable[..., str]) -> None:
    """On GPUs training is compiled; tf.math.bincount fails there, and only inside a metric, and top_k with a number of
    values that is not known beforehand.

    In a process of its own: Keras warns and compiles nothing once another test made TensorFlow deterministic.
    """
    assert 0 < float(run_forked(COMPILED_FIT).splitlines()[-1]) < 1
