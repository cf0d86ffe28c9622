"""Thresholds, what they find and what they raise in vain, and the ones that reach a target."""

import numpy as np
import pytest
from sklearn import metrics

from flexunet.core.config.operating import Target, parse_target
from flexunet.core.operating_point import SMALLEST, THRESHOLDS, Curves, DefectRule, Scored, above, choose, curves_of
from flexunet.core.regions import find_defects, without_small

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
    sizes = (1, 3, 20)
    curves = curves_of(truth, scored(probabilities), 3, RULE, [sizes] * 3)
    best, ids = probabilities[..., 1:].max(-1), probabilities[..., 1:].argmax(-1) + 1
    for position, threshold in enumerate(THRESHOLDS):
        predicted = np.where(best > np.float32(threshold), ids, 0).astype(np.uint8)
        for place, size in enumerate(sizes):
            defects = find_defects(truth, without_small(predicted, [1, size, size]), 3, RULE.overlap, RULE.false_share)
            assert curves.found[:, position, place].tolist() == defects.found.tolist()
            assert curves.false[:, position, place].tolist() == defects.false.tolist()
            assert curves.present.tolist() == defects.present.tolist()
    assert curves.pixels == np.count_nonzero(truth != 255)


def test_where_every_region_is_a_pixel_the_curve_is_scikit_learns_roc() -> None:
    generator = np.random.default_rng(1)
    truth, probabilities = np.zeros((80, 80), np.uint8), np.zeros((80, 80, 2), np.float32)
    labels = generator.random((40, 40)) < 0.3
    scores = generator.beta(np.where(labels, 3, 1), np.where(labels, 1, 3)).astype(np.float32)
    truth[::2, ::2], probabilities[::2, ::2, 1] = labels, scores
    curves = curves_of(truth, scored(probabilities), 2, DefectRule(0.25, 1e-9), [[1], [1]])
    false_share, found_share, at = metrics.roc_curve(labels.ravel(), scores.ravel(), drop_intermediate=False)
    # scikit-learn takes a score for positive from its threshold on, this from above it.
    place = [np.flatnonzero(at > np.float32(threshold))[-1] for threshold in THRESHOLDS]
    np.testing.assert_allclose(curves.found[1, :, 0] / curves.present[1], found_share[place], atol=1e-6)
    np.testing.assert_allclose(curves.false[1, :, 0] / np.count_nonzero(~labels), false_share[place], atol=1e-6)


def curves(found: list[list[float]], false: list[list[float]], present: list[float], pixels: float = 1e6) -> Curves:
    """Counts at ascending thresholds, the last ones to the end of the list; one smallest size."""
    rows = [np.array([row + row[-1:] * (LEVELS - len(row)) for row in rows], float) for rows in (found, false)]
    zeros = np.zeros((1, LEVELS))
    both = [np.concatenate([zeros, part])[..., np.newaxis] for part in rows]
    return Curves(*both, np.array([0.0, *present]), pixels)


def thresholds(sums: Curves, words: str, pixel_size: float | None = None) -> list[int]:
    target = parse_target(words)
    assert target is not None
    return [choice.threshold for choice in choose(sums, target, pixel_size)]


def test_a_share_to_find_is_reached_in_each_class_with_the_fewest_false_regions() -> None:
    sums = curves([[10, 9, 8], [10, 10, 9]], [[7, 3, 0], [5, 5, 1]], [10, 10])
    first, second = thresholds(sums, "found >= 0.9")
    assert first == 1 and 2 <= second < LEVELS


def test_an_image_that_is_all_one_false_region_is_no_gain() -> None:
    """Nine of ten are found by the four lowest thresholds; at the lowest all false regions have grown into one."""
    sums = curves([[10, 10, 10, 9, 5]], [[1, 8, 6, 3, 0]], [10])
    assert thresholds(sums, "found >= 0.9") == [3]


def test_a_share_that_no_threshold_finds_is_approached() -> None:
    assert thresholds(curves([[6, 5]], [[9, 0]], [10]), "found >= 0.9") == [0]


def test_a_bound_on_false_regions_goes_to_the_class_that_gains_most() -> None:
    """A false region buys five defects of the first class, and half a defect of the second."""
    sums = curves([[10, 5, 0], [10, 9, 8]], [[2, 1, 0], [4, 2, 0]], [10, 10])
    first, second = thresholds(sums, "at most 2 false regions per megapixel")
    assert first == 0 and second >= 2


def test_a_bound_is_kept_at_whatever_price() -> None:
    """Thousands of defects for each false region: what keeps the bound is not given up for what finds nothing."""
    sums = curves([[20_000, 14_000, 0]], [[8, 4, 0]], [20_000])
    assert thresholds(sums, "at most 5 false regions per megapixel") == [1]


def test_where_no_threshold_keeps_a_bound_the_fewest_false_regions_find_what_they_can() -> None:
    sums = curves([[10, 9, 5, 2]], [[8, 3, 3, 3]], [10])
    assert thresholds(sums, "at most 1 false regions per megapixel") == [1]


def test_square_metres_come_from_the_size_of_a_pixel() -> None:
    """A million pixels of 2 mm are 4 square metres: four times the false regions of one are allowed."""
    sums = curves([[10, 5, 0]], [[4, 2, 0]], [10])
    assert thresholds(sums, "at most 1 false regions per square metre", 2.0) == [0]
    assert thresholds(sums, "at most 1 false regions per square metre", 1.0)[0] >= 2


def test_small_regions_are_removed_where_that_costs_no_defect_and_no_further() -> None:
    """Specks of 4 pixels, a defect of 100: sizes from 8 to 64 take the specks away, the smallest of them is taken."""
    truth, probabilities = np.zeros((64, 64), np.uint8), np.zeros((64, 64, 2), np.float32)
    truth[10:20, 10:20] = 1
    probabilities[10:20, 10:20, 1] = 0.8
    for row in range(30, 60, 6):
        probabilities[row : row + 2, 30:32, 1] = 0.8
    sums = curves_of(truth, scored(probabilities), 2, RULE, [SMALLEST] * 2)
    [choice] = choose(sums, Target(1.0, None), None)
    assert SMALLEST[choice.smallest] == 8 and THRESHOLDS[choice.threshold] < 0.8
    kept = without_small(above(probabilities, [0.0, THRESHOLDS[choice.threshold]]), [1, 8])
    np.testing.assert_array_equal(kept, truth)


@pytest.mark.parametrize("size", [1, 5, 6, 100])
def test_a_spiral_is_one_region_and_a_comb_too(size: int) -> None:
    """What a label that spreads by neighbours would need hundreds of steps for."""
    spiral = np.array([[int(c) for c in row] for row in ("11111", "10001", "10101", "10111", "10000")], np.uint8)
    comb = np.zeros((5, 21), np.uint8)
    comb[0], comb[:, ::4] = 1, 1
    for ids in (spiral, comb):
        assert bool(without_small(ids, [1, size]).any()) == (np.count_nonzero(ids) >= size)
