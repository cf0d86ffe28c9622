"""Thresholds, what they find and what they raise in vain, and the ones that reach a target."""

import numpy as np
import pytest
from sklearn import metrics

from flexunet.core.config.operating import Target, parse_target
from flexunet.core.operating_point import THRESHOLDS, Curves, DefectRule, Scored, choose, curves_of
from flexunet.core.regions import find_defects

RULE = DefectRule(0.25, 0.0005)
LEVELS = len(THRESHOLDS)


@pytest.mark.parametrize(
    ("words", "target"),
    [
        ("found >= 0.98", Target(0.98, None)),
        ("found >= 1", Target(1.0, None)),
        ("at most 2 false regions per megapixel", Target(2.0, "megapixel")),
        ("at most .5 false regions per square metre", Target(0.5, "square metre")),
        ("found >= 0", None),
        ("found >= 1.1", None),
        ("found > 0.9", None),
        ("at most 2 false regions", None),
    ],
)
def test_a_target_is_read_or_none(words: str, target: Target | None) -> None:
    assert parse_target(words) == target


def scored(probabilities: np.ndarray) -> Scored:
    """From probabilities float32 `[h, w, C]`, as the graph does it."""
    defects = probabilities[..., 1:]
    levels = np.searchsorted(np.array(THRESHOLDS, np.float32), defects.max(-1))
    return Scored((defects.argmax(-1) + 1).astype(np.uint8), levels.astype(np.uint8))


def random_case(seed: int, size: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Truth with unlabelled pixels, and probabilities that know something of it."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 3, (size // 4, size // 4)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    truth[generator.random(truth.shape) < 0.05] = 255
    logits = generator.normal(0, 2, (size, size, 3)) + 2 * (truth[..., None] == np.arange(3))
    return truth, (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_a_curve_counts_at_each_threshold_what_the_gate_counts_of_its_mask(seed: int) -> None:
    truth, probabilities = random_case(seed)
    curves = curves_of(truth, scored(probabilities), 3, RULE)
    best, ids = probabilities[..., 1:].max(-1), probabilities[..., 1:].argmax(-1) + 1
    for position, threshold in enumerate(THRESHOLDS):
        predicted = np.where(best > np.float32(threshold), ids, 0).astype(np.uint8)
        defects = find_defects(truth, predicted, 3, RULE.overlap, RULE.false_share)
        assert curves.found[:, position].tolist() == defects.found.tolist()
        assert curves.false[:, position].tolist() == defects.false.tolist()
        assert curves.present.tolist() == defects.present.tolist()
    assert curves.pixels == np.count_nonzero(truth != 255)


def test_where_every_region_is_a_pixel_the_curve_is_scikit_learns_roc() -> None:
    generator = np.random.default_rng(1)
    truth, probabilities = np.zeros((80, 80), np.uint8), np.zeros((80, 80, 2), np.float32)
    labels = generator.random((40, 40)) < 0.3
    scores = generator.beta(np.where(labels, 3, 1), np.where(labels, 1, 3)).astype(np.float32)
    truth[::2, ::2], probabilities[::2, ::2, 1] = labels, scores
    curves = curves_of(truth, scored(probabilities), 2, DefectRule(0.25, 1e-9))
    false_share, found_share, at = metrics.roc_curve(labels.ravel(), scores.ravel(), drop_intermediate=False)
    # scikit-learn takes a score for positive from its threshold on, this from above it.
    place = [np.flatnonzero(at > np.float32(threshold))[-1] for threshold in THRESHOLDS]
    np.testing.assert_allclose(curves.found[1] / curves.present[1], found_share[place], atol=1e-6)
    np.testing.assert_allclose(curves.false[1] / np.count_nonzero(~labels), false_share[place], atol=1e-6)


def curves(found: list[list[float]], false: list[list[float]], present: list[float], pixels: float = 1e6) -> Curves:
    """Classes' counts at falling numbers of thresholds; the last stays to the end of the list of thresholds."""
    rows = [np.array([row + row[-1:] * (LEVELS - len(row)) for row in rows], float) for rows in (found, false)]
    zeros = np.zeros((1, LEVELS))
    return Curves(*(np.concatenate([zeros, part]) for part in rows), np.array([0.0, *present]), pixels)


def test_a_share_to_find_is_reached_in_each_class_with_the_fewest_false_regions() -> None:
    sums = curves([[10, 9, 8], [10, 10, 9]], [[7, 3, 0], [5, 5, 1]], [10, 10])
    assert choose(sums, parse_target("found >= 0.9"), None)[0] == 1  # type: ignore[arg-type]
    assert 2 <= choose(sums, parse_target("found >= 0.9"), None)[1] < LEVELS  # type: ignore[arg-type]


def test_a_share_that_no_threshold_finds_is_approached() -> None:
    assert choose(curves([[6, 5]], [[9, 0]], [10]), Target(0.9, None), None) == [0]


def test_a_bound_on_false_regions_goes_to_the_class_that_gains_most() -> None:
    """A false region buys five defects of the first class, and half a defect of the second."""
    sums = curves([[10, 5, 0], [10, 9, 8]], [[2, 1, 0], [4, 2, 0]], [10, 10])
    first, second = choose(sums, Target(2.0, "megapixel"), None)
    assert first == 0 and second >= 2
    kept = sums.false[1, first] + sums.false[2, second]
    assert kept <= 2


def test_square_metres_come_from_the_size_of_a_pixel() -> None:
    """A million pixels of 2 mm are 4 square metres: four times the false regions of one are allowed."""
    sums = curves([[10, 5, 0]], [[4, 2, 0]], [10])
    assert choose(sums, Target(1.0, "square metre"), 2.0) == [0]
    assert choose(sums, Target(1.0, "square metre"), 1.0)[0] >= 2
