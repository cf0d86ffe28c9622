"""Weights from the group alone, and intervals that widen where there is little to go by."""

import numpy as np
import pytest
from scipy import stats

from components.bootstrap import counted_interval, degrees_of_freedom, group_key, group_weights, interval

SEED, RESAMPLES = 137, 1000


def weights(groups: int, seed: int = SEED) -> np.ndarray:
    return np.stack([group_weights(seed, group_key(str(g).encode()), RESAMPLES) for g in range(groups)], axis=1)


def test_weights_depend_on_seed_and_group_only() -> None:
    np.testing.assert_array_equal(weights(5), weights(5))
    assert (weights(1) != weights(1, seed=138)).any()
    assert (weights(2)[:, 0] != weights(2)[:, 1]).any()


def test_weights_are_whole_numbers_of_mean_and_variance_one() -> None:
    drawn = weights(300)
    assert (drawn == np.round(drawn)).all() and drawn.min() == 0
    assert drawn.mean() == pytest.approx(1, abs=0.01) and drawn.var() == pytest.approx(1, abs=0.02)
    correlations = np.corrcoef(drawn[:, :50].T) - np.eye(50)
    assert np.abs(correlations).max() < 0.15


def ratio(hits: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    drawn = weights(len(sizes))
    with np.errstate(invalid="ignore"):
        scores = (drawn @ hits) / (drawn @ sizes)
    return scores, scores[:, np.newaxis], (drawn @ sizes)[:, np.newaxis]


def test_the_interval_of_a_mean_is_that_of_the_t_distribution() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, 100)
    low, high = interval(*ratio(values, np.ones(100)), groups=100)
    reach = 1.984 * values.std(ddof=1) / 10
    assert (low, high) == pytest.approx((values.mean() - reach, values.mean() + reach), abs=0.005)


def test_degrees_of_freedom_of_equal_groups_are_their_number_less_one() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, 40)
    _, parts, sizes = ratio(values, np.ones(40))
    assert degrees_of_freedom(parts, sizes, 40) == pytest.approx(39, rel=0.15)


def test_one_group_that_holds_most_pixels_widens_the_interval() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, 40)
    sizes = np.ones(40)
    sizes[0] = 40
    _, parts, resampled = ratio(values * sizes, sizes)
    assert degrees_of_freedom(parts, resampled, 40) < 5


def test_fewer_than_two_groups_have_no_interval() -> None:
    scores, parts, sizes = ratio(np.array([0.5]), np.array([1.0]))
    assert np.isnan(interval(scores, parts, sizes, groups=1)).all()


def test_what_never_varies_has_an_interval_of_no_width() -> None:
    assert interval(*ratio(np.full(12, 3.0), np.full(12, 3.0)), groups=12) == (1.0, 1.0)


@pytest.mark.parametrize("groups", [12, 40, 200])
def test_what_was_never_counted_is_not_known_to_be_none(groups: int) -> None:
    """No false region, or no missed defect: no resample differs, and the interval is that of as many observations."""
    exact = stats.binomtest(0, groups).proportion_ci(method="exact").high
    nothing, _, areas = ratio(np.zeros(groups), np.full(groups, 0.5))
    shares = counted_interval(nothing, areas[:, 0], groups, is_share=True)
    assert shares == (0.0, pytest.approx(exact, rel=0.12))
    # Half a megapixel a group.
    assert counted_interval(nothing, areas[:, 0], groups, is_share=False) == (0.0, pytest.approx(2 * exact, rel=0.12))
    every, _, sizes = ratio(np.full(groups, 3.0), np.full(groups, 3.0))
    assert counted_interval(every, sizes[:, 0], groups, is_share=True) == (pytest.approx(1 - shares[1]), 1.0)
    # As the bootstrap has it, where something was counted.
    some, parts, sizes = ratio((np.arange(groups) < 3).astype(float), np.ones(groups))
    assert counted_interval(some, sizes[:, 0], groups, is_share=True) == interval(some, parts, sizes, groups)


def test_an_undefined_score_has_no_interval() -> None:
    nothing = np.full(RESAMPLES, np.nan)
    zeros = np.zeros((RESAMPLES, 1))
    assert np.isnan(interval(nothing, nothing[:, np.newaxis], zeros, groups=12)).all()


@pytest.mark.parametrize("groups", [22, 100])
def test_the_interval_of_a_ratio_of_skewed_sums_covers_what_it_should(groups: int) -> None:
    """Areas whose largest twentieth is four times the median; `make bench` does it with whole test splits."""
    generator, drawn = np.random.default_rng(groups), weights(groups)
    areas = np.exp(0.9 * generator.standard_normal((400, groups)))
    hits = areas * generator.beta(5, 1.2, areas.shape)
    true, held = 5 / 6.2, 0
    for size, hit in zip(areas, hits, strict=True):
        sizes = drawn @ size
        scores = (drawn @ hit) / sizes
        low, high = interval(scores, scores[:, np.newaxis], sizes[:, np.newaxis], groups)
        held += low <= true <= high
    assert held / 400 >= {22: 0.90, 100: 0.92}[groups]
