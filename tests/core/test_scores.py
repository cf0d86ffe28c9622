"""Scores from counts: against numbers worked out by hand, and against scikit-learn."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, precision_score, recall_score

from flexunet.core import scores

NAN = float("nan")
# Rows are the truth; class 3 is in neither truth nor prediction.
COUNTS = np.array([[50, 2, 0, 0], [3, 10, 1, 0], [0, 4, 6, 0], [0, 0, 0, 0]])
# Class 1 is predicted and never true, class 2 is true and never predicted.
ONE_SIDED = np.array([[7, 2, 0], [0, 0, 0], [1, 0, 0]])
NAMES = ("dice", "iou", "precision", "recall", "pixel_accuracy", "foreground_dice")
BY_HAND = {
    "dice": ([100 / 105, 20 / 30, 12 / 17, NAN], [14 / 17, 0, 0]),
    "iou": ([50 / 55, 10 / 20, 6 / 11, NAN], [7 / 10, 0, 0]),
    "precision": ([50 / 53, 10 / 16, 6 / 7, NAN], [7 / 8, 0, NAN]),
    "recall": ([50 / 52, 10 / 14, 6 / 10, NAN], [7 / 9, NAN, 0]),
    "pixel_accuracy": (66 / 76, 7 / 10),
    "foreground_dice": ((20 / 30 + 12 / 17) / 2, 0),
}


def label_maps(seed: int, absent: tuple[int, ...] = ()) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Truth and prediction [3, 32, 32] of four classes of unequal size; a fifth of the pixels is wrong."""
    generator = np.random.default_rng(seed)
    truth = generator.choice(4, size=(3, 32, 32), p=[0.7, 0.15, 0.1, 0.05])
    noise = generator.choice(4, size=truth.shape)
    predicted = np.where(generator.random(truth.shape) < 0.2, noise, truth)
    for class_id in absent:
        predicted[predicted == class_id] = 0
    return truth, predicted


def count(truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (truth.ravel(), predicted.ravel()), 1)
    return counts


@pytest.mark.parametrize("name", NAMES)
def test_by_hand(name: str):
    score = getattr(scores, name)
    for counts, expected in zip((COUNTS, ONE_SIDED), BY_HAND[name], strict=True):
        with np.errstate(all="raise"):
            np.testing.assert_allclose(score(counts), expected, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_leading_dimensions(name: str):
    """Counts of three classes stacked [2, 2, 3, 3] give the scores of each, stacked."""
    single = [ONE_SIDED, COUNTS[:3, :3], np.eye(3, dtype=int), np.zeros((3, 3), int)]
    score = getattr(scores, name)
    together = score(np.stack(single).reshape(2, 2, 3, 3))
    expected = np.stack([score(counts) for counts in single])
    np.testing.assert_array_equal(together, expected.reshape(2, 2, *expected.shape[1:]))


@pytest.mark.parametrize("name", NAMES)
def test_no_pixels_have_no_score(name: str):
    with np.errstate(all="raise"):
        assert np.isnan(getattr(scores, name)(np.zeros((4, 4)))).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_prediction_scores_one(name: str):
    assert (getattr(scores, name)(np.diag([40, 3, 2, 1])) == 1).all()


@pytest.mark.parametrize("absent", [(), (2,)])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("name", "reference"),
    [("dice", f1_score), ("iou", jaccard_score), ("precision", precision_score), ("recall", recall_score)],
)
def test_agrees_with_scikit_learn(name: str, reference: Any, seed: int, absent: tuple[int, ...]):
    """`absent` classes are in the truth and never predicted; scikit-learn's Jaccard has no NaN, and needs none here."""
    truth, predicted = label_maps(seed, absent)
    zero_division = {} if reference is jaccard_score else {"zero_division": np.nan}
    expected = reference(truth.ravel(), predicted.ravel(), labels=range(4), average=None, **zero_division)
    np.testing.assert_allclose(getattr(scores, name)(count(truth, predicted, 4)), expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_pixel_accuracy_and_the_headline_agree_with_scikit_learn(seed: int):
    truth, predicted = label_maps(seed)
    counts = count(truth, predicted, 4)
    assert scores.pixel_accuracy(counts) == pytest.approx(accuracy_score(truth.ravel(), predicted.ravel()))
    headline = f1_score(truth.ravel(), predicted.ravel(), labels=[1, 2, 3], average="macro")
    assert scores.foreground_dice(counts) == pytest.approx(headline)


def test_counts_are_pooled_not_averaged():
    """Two images, 2 of 2 defect pixels found and 0 of 6: Dice of the sum is 4 / 10, the mean of the two were 1 / 2."""
    first, second = np.array([[8, 0], [0, 2]]), np.array([[4, 0], [6, 0]])
    assert scores.foreground_dice(first + second) == 4 / 10
    assert scores.foreground_dice(np.stack([first, second])).tolist() == [1, 0]


def test_an_all_background_model_gets_nothing():
    """87.5 % of the pixels are background: the seed's measure calls a model that finds nothing 0.875."""
    truth = np.zeros((16, 16), int)
    truth[0], truth[1] = 1, 2
    counts = count(truth, np.zeros_like(truth), 3)
    assert scores.pixel_accuracy(counts) == 0.875
    assert scores.foreground_dice(counts) == 0
    assert scores.dice(counts).tolist() == [2 * 224 / (224 + 256), 0, 0]


def test_background_is_left_out_of_the_headline():
    defects = np.array([[0, 3, 1], [2, 10, 0], [0, 0, 5]])
    more_background = defects + np.diag([10_000, 0, 0])
    assert scores.foreground_dice(more_background) == scores.foreground_dice(defects)
    assert scores.dice(more_background)[0] > 0.999 > scores.dice(defects)[0] == 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.2, NAN, 0.4], 0.3), ([NAN, NAN], NAN), ([0.0, NAN], 0), ([[1, NAN], [NAN, NAN]], [1, NAN])],
)
def test_mean_defined(values: Any, expected: Any):
    with np.errstate(all="raise"):
        np.testing.assert_allclose(scores.mean_defined(np.array(values)), expected, rtol=1e-12)


def test_in_a_slice_only_classes_of_its_truth_count():
    stray = np.array([[90, 1, 0], [0, 0, 0], [2, 0, 8]])
    assert scores.foreground_dice(stray) == (0 + 16 / 18) / 2
    assert scores.dice_of_present(stray) == 16 / 18
    assert np.isnan(scores.dice_of_present(np.array([[90, 1], [0, 0]])))


@pytest.mark.parametrize("name", NAMES)
def test_margins_give_what_counts_give(name: str):
    stacked = np.stack([COUNTS, np.diag([1, 2, 3, 0]), np.zeros((4, 4), int)])
    score = getattr(scores, name)
    np.testing.assert_array_equal(score(scores.margins(stacked)), score(stacked))


def test_calibration_error_by_hand():
    """Ten pixels at 0.9 of which eight are right, ten at 0.5 of which five are: (10 x 0.1 + 0) / 20."""
    assert scores.expected_calibration_error(np.array([[10, 9.0, 8], [10, 5.0, 5], [0, 0, 0]])) == pytest.approx(0.05)
    assert np.isnan(scores.expected_calibration_error(np.zeros((15, 3))))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_keras_agrees_with_numpy(name: str, dtype: str):
    import keras

    counts = np.stack([COUNTS, np.diag([1, 2, 3, 0]), np.zeros((4, 4), int)])
    score = getattr(scores, name)
    tensor = score(keras.ops.convert_to_tensor(counts.astype(dtype)), keras.ops)
    np.testing.assert_allclose(np.asarray(tensor), score(counts), rtol=1e-6)
