"""Losses order predictions as a person would, and ignored pixels do not count."""

import keras
import numpy as np
import pytest

from pipeline.features import IGNORE_ID
from trainer_module.losses import LOSSES, cross_entropy, foreground_dice_loss

TRUTH = np.zeros((2, 8, 8), np.uint8)
TRUTH[:, 2:5, 2:5] = 1
TRUTH[1, 6:, :] = 2


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
