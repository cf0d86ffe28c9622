"""The examples of the pages for contributors work in the modules that they are for."""

import re
import textwrap
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from docs import commands as documented
from flexunet.core import features, scores
from trainer_module import augment, losses


def example(page: str, module: ModuleType) -> Any:
    """The function that a page shows, defined among a module's own names."""
    [text] = [b.text for b in documented.blocks(f"docs/contributing/{page}.md") if b.language == "python"]
    names = dict(vars(module))
    exec(textwrap.dedent(text), names)
    [name] = re.findall(r"^def (\w+)", textwrap.dedent(text), re.M)
    return names[name]


TRUTH = np.zeros((2, 8, 8), np.uint8)
TRUTH[:, 2:6, 2:6] = 1


def confident(class_ids: np.ndarray) -> np.ndarray:
    return np.eye(2, dtype=np.float32)[class_ids] * 0.8 + 0.1


def test_the_loss_orders_predictions_and_leaves_ignored_pixels_out():
    tversky = example("add-a-loss", losses)
    missing, alarming = TRUTH.copy(), TRUTH.copy()
    missing[:, 2:6, 2:4], alarming[:, 2:6, 0:2] = 0, 1
    good, missed, alarmed = (float(tversky(TRUTH, confident(p), 0.8)[0]) for p in (TRUTH, missing, alarming))
    assert good < alarmed < missed
    ignored = TRUTH.copy()
    ignored[:, 0] = features.IGNORE_ID
    wrong = TRUTH.copy()
    wrong[:, 0] = 1
    np.testing.assert_allclose(tversky(ignored, confident(TRUTH), 0.8), tversky(ignored, confident(wrong), 0.8))


@pytest.mark.parametrize("seed", range(4))
def test_the_augmentation_gives_the_same_again_and_keeps_black_and_white(seed: int):
    change = example("add-an-augmentation", augment)(0.5)
    image = tf.constant(np.linspace(0, 255, 48, dtype=np.float32).reshape(4, 4, 3))
    key = tf.constant([7, seed], tf.int64)
    changed = change(image, key).numpy()
    np.testing.assert_array_equal(changed, change(image, key).numpy())
    assert changed.min() == 0 and changed.max() == pytest.approx(255)
    assert np.abs(changed - image.numpy()).max() > 1


def test_the_metric_is_right_on_counts_by_hand():
    specificity = example("add-a-metric", scores)
    counts = np.array([[90, 10], [5, 15]])
    np.testing.assert_allclose(specificity(counts), [15 / 20, 90 / 100])
    assert np.isnan(specificity(np.array([[0, 0], [0, 3]]))[1])
