"""Losses order predictions as a person would, and ignored pixels do not count."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from flexunet.core.config.data import SegmentationClass
from flexunet.core.config.train import TrainConfig
from flexunet.core.features import IGNORE_ID
from trainer_module.losses import cross_entropy, focal, foreground_dice_loss, make_loss

TRUTH = np.zeros((2, 8, 8), np.uint8)
TRUTH[:, 2:5, 2:5] = 1
TRUTH[1, 6:, :] = 2


CLASSES = [SegmentationClass(name=name, color=(i, 0, 0)) for i, name in enumerate(("background", "dent", "rust"))]
LOSSES = {
    name: make_loss(TrainConfig(loss=name), CLASSES)
    for name in ("cross_entropy", "cross_entropy_dice", "focal", "focal_dice")
}


def confident(class_ids: np.ndarray, certainty: float = 0.9) -> np.ndarray:
    one_hot = np.eye(3, dtype=np.float32)[class_ids]
    return one_hot * certainty + (1 - one_hot) * (1 - certainty) / 2


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_better_predictions_lose_less(name: str) -> None:
    shifted = np.roll(TRUTH, 1, axis=2)
    predictions = [
        confident(TRUTH, 0.99),
        confident(TRUTH, 0.9),
        confident(shifted),
        confident(np.zeros_like(TRUTH)),
        confident((TRUTH + 1) % 3),
    ]
    losses = [float(np.mean(LOSSES[name](TRUTH, p))) for p in predictions]
    assert losses == sorted(losses)
    assert len(set(losses)) == len(losses)


def test_cross_entropy_is_keras_own() -> None:
    probabilities = confident(TRUTH, 0.7)
    expected = keras.losses.categorical_crossentropy(np.eye(3, dtype=np.float32)[TRUTH], probabilities)
    np.testing.assert_allclose(cross_entropy(TRUTH, probabilities), np.mean(expected, axis=(1, 2)), rtol=1e-5)


def test_a_perfect_prediction_has_no_dice_loss() -> None:
    np.testing.assert_allclose(foreground_dice_loss(TRUTH, confident(TRUTH, 1.0)), [0, 0], atol=1e-6)


def test_all_background_has_nearly_the_whole_dice_loss() -> None:
    loss = foreground_dice_loss(TRUTH, confident(np.zeros_like(TRUTH), 1.0))
    # 1 - mean of 1 / (18 + 1) and 1 / (16 + 1), the smoothing of two classes with 18 and 16 pixels.
    np.testing.assert_allclose(loss, [1 - (1 / 19 + 1 / 17) / 2] * 2, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_ignored_pixels_do_not_count(name: str) -> None:
    ignored = TRUTH.copy()
    ignored[:, :2] = IGNORE_ID
    right, wrong = confident(TRUTH), confident(TRUTH)
    wrong[:, :2] = confident(np.full((2, 2, 8), 2, np.uint8))
    np.testing.assert_allclose(LOSSES[name](ignored, right), LOSSES[name](ignored, wrong), rtol=1e-6)
    assert not np.allclose(LOSSES[name](TRUTH, right), LOSSES[name](TRUTH, wrong))


def test_an_image_without_labels_loses_nothing() -> None:
    nothing = np.full((1, 8, 8), IGNORE_ID, np.uint8)
    np.testing.assert_array_equal(cross_entropy(nothing, confident(TRUTH[:1])), [0])


def test_focal_without_focus_is_cross_entropy_and_with_it_looks_away_from_what_is_sure() -> None:
    np.testing.assert_allclose(focal(TRUTH, confident(TRUTH, 0.7), 0.0), cross_entropy(TRUTH, confident(TRUTH, 0.7)))
    # (1 - p)**gamma of the cross-entropy, since every pixel has the same p here.
    for certainty in (0.6, 0.9):
        expected = (1 - certainty) ** 2 * cross_entropy(TRUTH, confident(TRUTH, certainty)).numpy()
        np.testing.assert_allclose(focal(TRUTH, confident(TRUTH, certainty), 2.0), expected, rtol=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_what_is_surely_right_has_a_finite_slope(gamma: float) -> None:
    logits = tf.Variable([[[[40.0, 0.0, 0.0]]]])
    with tf.GradientTape() as tape:
        loss = focal(np.zeros((1, 1, 1), np.uint8), tf.nn.softmax(logits), gamma)
    assert np.isfinite(tape.gradient(loss, logits)).all()


def test_class_weights_are_a_weighted_mean_over_pixels() -> None:
    config = TrainConfig(class_weights={"dent": 10.0})
    probabilities = confident(TRUTH, 0.9)
    probabilities[:, 3, 3] = [0.5, 0.4, 0.1]
    each = -np.log(np.take_along_axis(probabilities, TRUTH[..., np.newaxis].astype(int), axis=-1)[..., 0])
    weights = np.where(TRUTH == 1, 10.0, 1.0)
    expected = (each * weights).sum((1, 2)) / weights.sum((1, 2))
    np.testing.assert_allclose(make_loss(config, CLASSES)(TRUTH, probabilities), expected, rtol=1e-5)


def test_the_sum_is_the_sum_of_its_parts() -> None:
    probabilities = confident(TRUTH, 0.8)
    expected = cross_entropy(TRUTH, probabilities) + foreground_dice_loss(TRUTH, probabilities)
    np.testing.assert_allclose(LOSSES["cross_entropy_dice"](TRUTH, probabilities), expected, rtol=1e-6)
