"""Where rounding may choose another class: wherever it can, and nowhere else."""

import itertools

import numpy as np
import pytest

from flexunet.core.operating_point import above
from flexunet.serving.rounding import ROUNDING, at_the_boundary

# Of three defect classes. Values lie within a few roundings of these, of each other, and between.
THRESHOLDS = (0.3, 0.3021, 0.05)


def near_the_thresholds() -> np.ndarray:
    """Probabilities float64 `[N, 4]`, background first, half a rounding or one and a half apart."""
    steps = ROUNDING * np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    columns = [np.concatenate([threshold + steps, 0.3 + steps / 2, [0.0]]) for threshold in THRESHOLDS]
    return np.array([(0.1, *defects) for defects in itertools.product(*columns)])


def outcomes(probabilities: np.ndarray, rounding: float, thresholds: tuple[float, ...] | None) -> np.ndarray:
    """How many classes a pixel may get, `[N]`, if each probability moves by so much, up or down."""
    found = []
    for signs in itertools.product((-1, 0, 1), repeat=3):
        moved = probabilities + rounding * np.array([0, *signs])
        found.append(moved.argmax(-1) if thresholds is None else above(moved.astype(np.float32), (0.0, *thresholds)))
    return np.array([len({*classes}) for classes in np.transpose(found)])


@pytest.mark.parametrize("thresholds", [None, THRESHOLDS], ids=["best", "thresholds"])
def test_rounding_decides_where_a_class_may_change_and_nowhere_else(thresholds: tuple[float, ...] | None) -> None:
    probabilities = near_the_thresholds()
    found = at_the_boundary(probabilities, thresholds)
    # Two that move towards each other are a whole rounding nearer.
    assert found[outcomes(probabilities, 0.49 * ROUNDING, thresholds) > 1].all()
    assert (outcomes(probabilities, 1.01 * ROUNDING, thresholds)[found] > 1).all()
    assert 0.05 < found.mean() < 0.95


def test_a_class_below_its_threshold_hides_none_that_is_above_its_own() -> None:
    """Alone background, in a batch of three the second class: no model is refused for it."""
    close, clear = (0.4, 0.30000, 0.29999), (0.4, 0.30000, 0.2)
    assert at_the_boundary(np.array([close, clear]), (0.5, 0.05)).tolist() == [True, False]
    assert at_the_boundary(np.array([[0.7, 0.3]]), (0.5,)).tolist() == [False]
