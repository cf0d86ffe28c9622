"""Answers as means over symmetries."""

import numpy as np
import pytest
import tensorflow as tf

from flexunet.core.config.load import ConfigError, load_config
from trainer_module.symmetries import mean_over_symmetries

PIXELS = np.random.default_rng(0).uniform(size=(2, 6, 6, 3)).astype(np.float32)


def shifted(images: tf.Tensor) -> tf.Tensor:
    """Says of each pixel what is to the left of it: no symmetry leaves this as it is."""
    return tf.roll(images, 1, axis=2)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_each_symmetry_is_turned_back(count: int) -> None:
    """What looks the same from everywhere comes out as it is."""
    blurred = mean_over_symmetries(lambda x: tf.nn.avg_pool2d(x, 3, 1, "SAME"), tf.constant(PIXELS), count)
    np.testing.assert_allclose(blurred, tf.nn.avg_pool2d(PIXELS, 3, 1, "SAME"), atol=1e-6)


def test_the_mean_is_over_different_symmetries() -> None:
    left, right, up, down = (np.roll(PIXELS, shift, axis) for shift, axis in ((1, 2), (-1, 2), (1, 1), (-1, 1)))
    expected = {1: left, 2: (left + right) / 2, 4: (left + right) / 2, 8: (left + right + up + down) / 4}
    for count, mean in expected.items():
        np.testing.assert_allclose(mean_over_symmetries(shifted, tf.constant(PIXELS), count), mean, atol=1e-6)


def test_eight_need_a_square() -> None:
    with pytest.raises(ConfigError, match=r"serving.symmetries is 8 with images of 128x256, expected a square to turn"):
        load_config("neu-seg", ["serving.symmetries=8", "image.width=256"])
