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
NAMES = ("cross_entropy", "cross_entropy_dice", "focal", "focal_dice")
LOSSES = {
    f"{name} of {share:g}": make_loss(TrainConfig(loss=name, hardest_pixels=share), CLASSES)
    for name in NAMES
    for share in (1, 0.25)
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
    dice = foreground_dice_loss(TRUTH, probabilities)
    for part in ("cross_entropy", "focal"):
        for share in ("1", "0.25"):
            expected = LOSSES[f"{part} of {share}"](TRUTH, probabilities) + dice
            np.testing.assert_allclose(LOSSES[f"{part}_dice of {share}"](TRUTH, probabilities), expected, rtol=1e-6)


def hardest_by_sorting(
    class_ids: np.ndarray, probabilities: np.ndarray, gamma: float, weights: list[float], share: float
) -> tuple[list[float], np.ndarray]:
    """The losses of images, and the slopes by probability, from sorted lists of pixels as nnU-Net's TopKLoss has them:
    weighted values, the largest of which are kept."""
    losses, slopes = [], np.zeros_like(probabilities)
    for image, ids in enumerate(class_ids):
        pixels = [
            (weights[k], float(probabilities[image, row, column, k]), (image, row, column, k))
            for (row, column), k in np.ndenumerate(ids)
            if k != IGNORE_ID
        ]
        pixels.sort(key=lambda pixel: pixel[0] * (1 - pixel[1]) ** gamma * -np.log(pixel[1]), reverse=True)
        kept = pixels[: max(1, round(share * len(pixels)))]
        total = sum(weight for weight, _, _ in kept)
        losses.append(sum(w * (1 - p) ** gamma * -np.log(p) for w, p, _ in kept) / total)
        for weight, p, place in kept:
            steepness = (1 - p) ** gamma / p + (gamma * (1 - p) ** (gamma - 1) * -np.log(p) if gamma else 0)
            slopes[place] = -weight * steepness / total
    return losses, slopes


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.99])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.5, 1.0, 4.0]])
def test_the_hardest_pixels_are_those_that_sorting_finds(share: float, gamma: float, weights: list[float]) -> None:
    generator = np.random.default_rng(0)
    class_ids = generator.integers(0, 3, (2, 10, 10)).astype(np.uint8)
    # So that the images have other numbers of labelled pixels.
    class_ids[1, :4] = IGNORE_ID
    probabilities = tf.Variable(generator.dirichlet((1, 1, 1), (2, 10, 10)).astype(np.float32))
    losses, slopes = hardest_by_sorting(class_ids, probabilities.numpy(), gamma, weights, share)
    with tf.GradientTape() as tape:
        loss = focal(class_ids, probabilities, gamma, weights, share)
    np.testing.assert_allclose(loss, losses, rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(loss, probabilities), slopes, rtol=1e-4, atol=1e-5)


def test_of_pixels_that_are_equally_hard_each_counts_a_part() -> None:
    """What is begun with: a network that says the same everywhere."""
    probabilities = tf.Variable(np.full((1, 8, 8, 3), 1 / 3, np.float32))
    with tf.GradientTape() as tape:
        loss = focal(TRUTH[:1], probabilities, 0.0, None, 0.25)
    np.testing.assert_allclose(loss, [np.log(3)], rtol=1e-6)
    slopes = tape.gradient(loss, probabilities).numpy().sum(-1)
    np.testing.assert_allclose(slopes, np.full((1, 8, 8), -3 / 64), rtol=1e-5)


def test_the_hardest_pixels_hide_neither_a_network_that_diverged_nor_an_image_without_labels() -> None:
    broken = confident(TRUTH)
    broken[0, 4, 4] = np.nan
    broken[1] = np.nan
    assert np.isnan(focal(TRUTH, broken, 0.0, None, 0.1)).all()
    nothing = np.full((1, 8, 8), IGNORE_ID, np.uint8)
    np.testing.assert_array_equal(focal(nothing, confident(TRUTH[:1]), 0.0, None, 0.1), [0])
