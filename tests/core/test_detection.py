"""Probability of detection: the fit and its bound, against programs that we did not write."""

import numpy as np
import pytest
from scipy import optimize, special, stats
from sklearn.linear_model import LogisticRegression

from flexunet.core.detection import Detections, a90, a90_95, fit, log_size, size_step


def simulated(seed: int, count: int = 300, slope: float = 2.5, a50: float = 6.0) -> Detections:
    generator = np.random.default_rng(seed)
    steps, present = np.unique(generator.integers(8, 80, count), return_counts=True)
    log_sizes = np.array([log_size(int(step)) for step in steps])
    found = generator.binomial(present, special.expit(slope * (log_sizes - np.log(a50))))
    return Detections(log_sizes, present.astype(float), found.astype(float))


@pytest.mark.parametrize("seed", range(4))
def test_the_fit_is_scikit_learns(seed: int) -> None:
    data = simulated(seed)
    x = np.concatenate([data.log_sizes, data.log_sizes])[:, None]
    y, weight = np.repeat([1, 0], len(data.log_sizes)), np.concatenate([data.found, data.present - data.found])
    theirs = LogisticRegression(penalty=None, solver="newton-cg", tol=1e-12, max_iter=1000)
    theirs.fit(x, y, sample_weight=weight)
    ours = fit(data)
    np.testing.assert_allclose(float(ours.slope), theirs.coef_[0, 0], rtol=1e-6)
    np.testing.assert_allclose(float(ours.intercept), theirs.intercept_[0], rtol=1e-6)
    np.testing.assert_allclose(ours.probability(1.5), theirs.predict_proba([[1.5]])[0, 1], atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_a90_95_is_the_largest_a90_that_the_likelihood_ratio_allows(seed: int) -> None:
    """Both parameters free, by SciPy's constrained optimizer."""
    data = simulated(seed)
    center = data.log_sizes.mean()
    centered = data.log_sizes - center

    def log_likelihood(parameters: np.ndarray) -> float:
        eta = parameters[0] + parameters[1] * centered
        return float(
            (data.found * special.log_expit(eta) + (data.present - data.found) * special.log_expit(-eta)).sum()
        )

    model = fit(data)
    start = np.array([float(model.intercept + model.slope * center), float(model.slope)])
    least = log_likelihood(start) - stats.norm.ppf(0.95) ** 2 / 2
    constraint = {"type": "ineq", "fun": lambda p: log_likelihood(p) - least}
    found = optimize.minimize(
        lambda p: -(special.logit(0.9) - p[0]) / p[1], start, constraints=[constraint], options={"ftol": 1e-12}
    )
    assert found.success
    np.testing.assert_allclose(a90_95(data), np.exp(center - found.fun), rtol=1e-6)
    assert a90(data) == pytest.approx(np.exp(float(model.log_a90)))
    assert data.log_sizes[0] < np.log(a90(data)) < np.log(a90_95(data)) < data.log_sizes[-1]


@pytest.mark.parametrize("seed", range(4))
def test_looks_at_the_same_flaw_prove_no_more_than_one(seed: int) -> None:
    data = simulated(seed)
    four = Detections(data.log_sizes, 4 * data.present, 4 * data.found)
    assert a90_95(four) < a90_95(data)
    assert a90_95(four.weighted(0.25)) == pytest.approx(a90_95(data), rel=1e-9)
    assert a90(four) == pytest.approx(a90(data), rel=1e-9)


def test_resamples_are_fitted_each_alone() -> None:
    alone = [simulated(seed) for seed in (1, 2)]
    sizes = alone[0].log_sizes
    kept = [
        Detections(sizes, d.present[: len(sizes)], d.found[: len(sizes)]) for d in alone if len(d.present) >= len(sizes)
    ]
    together = fit(Detections(sizes, np.stack([d.present for d in kept]), np.stack([d.found for d in kept])))
    np.testing.assert_allclose(together.slope, [float(fit(d).slope) for d in kept], rtol=1e-9)


def test_nine_of_ten_simulated_bounds_lie_above_the_truth() -> None:
    """95 % should; 200 samples tell 90 % from it. Where nothing is proven no bound is wrong."""
    truth = 6.0 * np.exp(special.logit(0.9) / 2.5)
    bounds = [a90_95(simulated(seed)) for seed in range(200)]
    assert np.isnan(bounds).mean() < 0.05
    assert 0.90 <= np.mean([not bound <= truth for bound in bounds]) < 0.995


def counts(*rows: tuple[int, int, int]) -> Detections:
    """(step, present, found)."""
    steps, present, found = zip(*rows, strict=True)
    return Detections(np.array([log_size(s) for s in steps]), np.array(present, float), np.array(found, float))


def test_without_a_miss_twenty_nine_prove_it() -> None:
    """0.9**29 < 0.05 < 0.9**28."""
    assert np.isnan(a90_95(counts((16, 20, 20), (24, 8, 8))))
    assert a90_95(counts((16, 20, 20), (24, 9, 9), (32, 50, 50))) == pytest.approx(2**1.5)
    assert a90_95(counts((8, 5, 0), (16, 20, 20), (24, 9, 9))) == pytest.approx(2**1.5)


def test_a_step_between_missed_and_found_is_no_error() -> None:
    """The likelihood is flat there, and a fit of some hundred in slope passes for one that converged."""
    for sizes, present in (((11, 28, 34), (1, 70, 50)), ((27, 43), (1, 70))):
        found = np.array([0, *present[1:]], float)
        assert a90_95(Detections(np.log(sizes), np.array(present, float), found)) == pytest.approx(sizes[1], rel=1e-3)


def test_nothing_is_said_of_sizes_that_were_not_measured() -> None:
    """The sizes are 2, 2.83 and 4 pixels; 99 % found at all of them would be 90 % far below, by a flat curve."""
    for found in ((198, 199, 199), (199, 199, 199), (199, 199, 198)):
        flat = counts(*((step, 200, number) for step, number in zip((16, 24, 32), found, strict=True)))
        assert np.isnan(a90(flat)) and a90_95(flat) == pytest.approx(2.0)
    rising = counts((16, 50, 20), (24, 50, 30), (32, 50, 40))
    assert float(fit(rising).log_a90) > rising.log_sizes[-1]
    assert np.isnan(a90(rising)) and np.isnan(a90_95(rising))


def test_fewer_than_twenty_nine_prove_nothing_by_a_curve_either() -> None:
    found = counts((8, 4, 1), (16, 4, 3), (24, 10, 10), (32, 10, 10))
    assert np.isfinite(float(fit(found).slope)) and np.isnan(a90_95(found))


def test_what_is_not_found_more_often_when_larger_has_no_a90() -> None:
    assert np.isnan(a90_95(counts((16, 20, 15), (24, 20, 10), (32, 20, 5))))
    assert np.isnan(float(fit(counts((16, 10, 10))).slope))


def test_steps_are_within_four_percent_of_a_side() -> None:
    for pixels in (1, 2, 3, 10, 999, 50_000_000):
        assert np.exp(log_size(size_step(pixels))) == pytest.approx(np.sqrt(pixels), rel=0.045)
