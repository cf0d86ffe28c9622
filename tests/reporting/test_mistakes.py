"""Kinds of mistakes, region by region and pixel by pixel, on masks small enough to count by hand."""

import numpy as np
import pytest

from flexunet.core.features import IGNORE_ID
from flexunet.reporting.mistakes import FALSE_ALARM, KINDS, MISSED, RIGHT, WRONG_CLASS, count_errors, error_map


def test_each_pixel_has_the_kind_of_its_mistake() -> None:
    truth = np.array([[0, 0, 1, 1, 1, IGNORE_ID]], np.uint8)
    predicted = np.array([[0, 2, 1, 0, 2, 2]], np.uint8)
    kinds = ["", FALSE_ALARM, RIGHT, MISSED, WRONG_CLASS, ""]
    expected = [1 + KINDS.index(kind) if kind else 0 for kind in kinds]
    assert error_map(truth, predicted).tolist() == [expected]


def counts(**found: int) -> dict[str, int]:
    return {"defects": 0, "right": 0, "missed": 0, "wrong": 0, "alarm": 0, **found}


def region(*parts: tuple[int, int, int]) -> np.ndarray:
    """Ten rows of twenty pixels; each part is (class, first column, last column) in all rows."""
    ids = np.zeros((10, 20), np.uint8)
    for class_id, first, last in parts:
        ids[:, first:last] = class_id
    return ids


@pytest.mark.parametrize(
    ("truth", "predicted", "expected"),
    [
        (region((1, 0, 4)), region((1, 0, 1)), counts(defects=1, right=1)),
        (region((1, 0, 5)), region((1, 0, 1)), counts(defects=1, missed=1)),
        (region((1, 0, 5)), region((2, 0, 3)), counts(defects=1, wrong=1)),
        # As much of it seen as another class as not seen at all: it was missed.
        (region((1, 0, 4)), region((2, 0, 2)), counts(defects=1, missed=1)),
        (region((1, 0, 4), (1, 8, 12)), region((1, 0, 4)), counts(defects=2, right=1, missed=1)),
        (region(), region((1, 0, 4)), counts(alarm=1)),
        (region((2, 3, 5)), region((1, 0, 4)), counts(alarm=1)),
        (region((2, 2, 5)), region((1, 0, 4)), counts()),
        (region(), region(), counts()),
    ],
    ids=[
        "a quarter is enough",
        "a fifth is not",
        "other class",
        "tie",
        "two",
        "alarm",
        "most outside",
        "half outside",
        "nothing",
    ],
)
def test_regions_are_counted_by_their_kind(truth: np.ndarray, predicted: np.ndarray, expected: dict[str, int]) -> None:
    assert count_errors(truth, predicted, 3, overlap=0.25, alarm_share=0.01)[1] == expected


def test_a_speck_is_no_false_alarm_and_neither_is_what_nobody_labelled() -> None:
    truth, predicted = region(), region()
    predicted[0, 0] = 1
    assert count_errors(truth, predicted, 2, 0.25, alarm_share=0.01)[1]["alarm"] == 0
    assert count_errors(truth, predicted, 2, 0.25, alarm_share=0.005)[1]["alarm"] == 1
    truth[0, 0] = IGNORE_ID
    assert count_errors(truth, predicted, 2, 0.25, alarm_share=0.005)[1]["alarm"] == 0


def test_a_defect_is_right_exactly_where_the_gate_finds_it() -> None:
    from flexunet.core.config.gate import GateConfig
    from flexunet.core.regions import find_defects

    generator = np.random.default_rng(4)
    for _ in range(20):
        truth = generator.integers(0, 3, (6, 6)).repeat(5, 0).repeat(5, 1).astype(np.uint8)
        predicted = np.where(generator.random(truth.shape) < 0.75, 0, truth).astype(np.uint8)
        gate = GateConfig()
        found = find_defects(truth, predicted, 3, gate.defect_overlap, gate.false_alarm_share)
        counts = count_errors(truth, predicted, 3, gate.defect_overlap, gate.false_alarm_share)
        assert [c["right"] for c in counts] == found.found.tolist()
        assert [c["defects"] for c in counts] == found.present.tolist()
        assert all(c["right"] + c["missed"] + c["wrong"] == c["defects"] for c in counts)
