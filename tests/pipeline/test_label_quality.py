"""The soft minimum of label quality, against cleanlab's, and what a mask is said to differ in."""

import numpy as np
import pytest
from cleanlab.segmentation.rank import get_label_quality_scores

from pipeline.study.label_quality import Disagreement, label_quality, largest_disagreement


def test_quality_is_that_of_cleanlab():
    generator = np.random.default_rng(0)
    logits = 4 * generator.standard_normal((6, 4, 20, 30))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = generator.integers(0, 4, (6, 20, 30))
    labels[:3] = probabilities[:3].argmax(axis=1)
    theirs, _ = get_label_quality_scores(labels, probabilities, verbose=False)
    of_label = np.take_along_axis(probabilities, labels[:, np.newaxis], axis=1)[:, 0]
    ours = [label_quality(one.ravel().astype(np.float32)) for one in of_label]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert min(ours[:3]) > max(ours[3:])


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_quality_of_equal_pixels_is_theirs(value: float):
    assert label_quality(np.full(10_000_000, value, np.float32)) == pytest.approx(value)


def test_the_largest_disagreement_is_named_and_unlabelled_pixels_are_none():
    label = np.array([[1, 1, 1, 2, 255, 255, 255, 255]], np.uint8)
    predicted = np.array([[0, 0, 1, 3, 1, 1, 1, 1]], np.uint8)
    assert largest_disagreement(label, predicted) == Disagreement(labelled=1, predicted=0, pixels=2)
    assert largest_disagreement(label, np.where(label == 255, 0, label)) is None
