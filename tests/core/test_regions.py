"""Regions of the truth, found or missed, and false alarms."""

import numpy as np
import pytest

from flexunet.core.config.gate import GateConfig
from flexunet.core.regions import Defects, connected_regions, find_defects

GATE = GateConfig()


def defects_of(truth: np.ndarray, predicted: np.ndarray, num_classes: int, gate: GateConfig) -> Defects:
    return find_defects(truth, predicted, num_classes, gate.defect_overlap, gate.false_alarm_share)


def ids(*rows: str) -> np.ndarray:
    return np.array([[255 if pixel == "?" else int(pixel) for pixel in row] for row in rows], np.uint8)


def test_pixels_that_touch_by_a_corner_are_one_defect_and_classes_are_apart() -> None:
    truth = ids("100002", "010002", "001300", "000000", "110000")
    defects = defects_of(truth, truth, 4, GATE)
    assert defects.present.tolist() == [0, 2, 1, 1]
    assert defects.found.tolist() == [0, 2, 1, 1]
    assert (defects.largest, defects.clean, defects.alarm) == (3, False, False)


@pytest.mark.parametrize(("hits", "overlap", "found"), [(1, 0.25, 1), (1, 0.26, 0), (0, 0.01, 0), (4, 1.0, 1)])
def test_a_defect_is_found_from_the_configured_share_on(hits: int, overlap: float, found: int) -> None:
    truth, predicted = ids("1111"), ids("1" * hits + "0" * (4 - hits))
    assert defects_of(truth, predicted, 2, GateConfig(defect_overlap=overlap)).found.tolist() == [0, found]


def test_the_wrong_class_finds_nothing() -> None:
    assert defects_of(ids("1100"), ids("2200"), 3, GATE).found.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("truth", "predicted", "clean", "alarm"),
    [
        ("0000", "0000", True, False),
        ("0000", "0100", True, True),
        ("1000", "1100", False, False),
        ("??00", "1100", True, False),
        ("????", "1111", False, False),
    ],
    ids=["silent", "alarm", "with a defect", "in ignored pixels", "nothing labelled"],
)
def test_false_alarms_are_raised_on_labelled_pixels_of_images_without_defect(
    truth: str, predicted: str, clean: bool, alarm: bool
) -> None:
    defects = defects_of(ids(truth), ids(predicted), 2, GATE)
    assert (defects.clean, defects.alarm) == (clean, alarm)


def test_a_few_stray_pixels_are_no_alarm() -> None:
    truth, predicted = np.zeros((2, 100, 100), np.uint8)
    predicted[0, :4] = 1
    assert not defects_of(truth, predicted, 2, GATE).alarm
    predicted[0, :5] = 1
    assert defects_of(truth, predicted, 2, GATE).alarm


def test_ignored_pixels_are_no_defect() -> None:
    assert defects_of(ids("?1?0"), ids("0000"), 2, GATE).present.tolist() == [0, 1]


def test_regions_touch_at_corners_and_have_boxes() -> None:
    class_ids = np.zeros((6, 8), np.uint8)
    class_ids[0, 0] = class_ids[1, 1] = 1
    class_ids[3:5, 4:8] = 1
    class_ids[5, 0] = 2
    assert connected_regions(class_ids == 1).boxes() == [(0, 0, 2, 2), (4, 3, 4, 2)]
    assert connected_regions(class_ids == 2).boxes() == [(0, 5, 1, 1)]
    assert connected_regions(class_ids == 3).boxes() == []
