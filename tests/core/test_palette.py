"""Class ids to colours and back, by exact match."""

import numpy as np
import pytest

from flexunet.core.config.data import Color, RecordsConfig, SegmentationClass
from flexunet.core.palette import class_ids_from_rgb, color_table, pack_rgb, rgb_from_class_ids

BACKGROUND, INCLUSION, PATCHES, SCRATCHES = (0, 0, 0), (0, 0, 255), (0, 255, 0), (255, 0, 0)
CLASSES = [
    SegmentationClass(name=name, color=color)
    for name, color in zip("0123", (BACKGROUND, INCLUSION, PATCHES, SCRATCHES), strict=True)
]
VIOLET = (200, 0, 200)


@pytest.mark.parametrize(
    ("rgb", "packed"),
    [((0, 0, 0), 0), ((0, 0, 1), 1), ((0, 1, 0), 256), ((1, 0, 0), 65536), ((255, 255, 255), 16777215)],
)
def test_pack_rgb(rgb: Color, packed: int):
    found = pack_rgb(np.array(rgb, np.uint8))
    assert found == packed and found.dtype == np.int32


@pytest.mark.parametrize(("ignore_color", "rest"), [(None, (127, 127, 127)), (VIOLET, VIOLET), ((0, 0, 0), (0, 0, 0))])
def test_color_table(ignore_color: Color | None, rest: Color):
    classes = [SegmentationClass(name=c.name, color=(9, 9, 9 + i)) for i, c in enumerate(CLASSES)]
    table = color_table(classes, ignore_color)
    assert table.dtype == np.uint8 and table.shape == (256, 3)
    assert table[:4].tolist() == [[9, 9, 9], [9, 9, 10], [9, 9, 11], [9, 9, 12]]
    assert (table[4:] == rest).all()


def test_rgb_from_class_ids():
    found = rgb_from_class_ids(np.array([[0, 1, 2], [3, 255, 0]], np.uint8), CLASSES, VIOLET)
    assert found.dtype == np.uint8
    assert found.tolist() == [
        [[0, 0, 0], [0, 0, 255], [0, 255, 0]],
        [[255, 0, 0], [200, 0, 200], [0, 0, 0]],
    ]


def test_class_ids_from_rgb():
    mask_rgb = np.array([[BACKGROUND, INCLUSION, VIOLET], [PATCHES, SCRATCHES, BACKGROUND]], np.uint8)
    ids, known = class_ids_from_rgb(mask_rgb, CLASSES, RecordsConfig(ignore_color=VIOLET))
    assert ids.dtype == np.uint8 and known.dtype == np.bool_
    assert ids.tolist() == [[0, 1, 255], [2, 3, 0]]
    assert known.all()


@pytest.mark.parametrize("color", [(0, 0, 254), (1, 0, 0), (254, 0, 0), (0, 255, 255), VIOLET])
def test_a_color_off_the_palette_is_unknown_however_near(color: Color):
    ids, known = class_ids_from_rgb(np.array([[INCLUSION, color]], np.uint8), CLASSES, RecordsConfig())
    assert known.tolist() == [[True, False]] and ids.tolist() == [[1, 255]]


def test_black_can_be_the_color_of_a_defect_or_of_ignored_pixels():
    black = np.zeros((1, 1, 3), np.uint8)
    paper = SegmentationClass(name="paper", color=(255, 255, 255))
    grey_ink, black_ink = (SegmentationClass(name="ink", color=color) for color in ((9, 9, 9), (0, 0, 0)))
    ignored, ignored_known = class_ids_from_rgb(black, [paper, grey_ink], RecordsConfig(ignore_color=(0, 0, 0)))
    assert (ignored.item(), ignored_known.item()) == (255, True)
    ink, ink_known = class_ids_from_rgb(black, [paper, black_ink], RecordsConfig())
    assert (ink.item(), ink_known.item()) == (1, True)


@pytest.mark.parametrize("shape", [(7,), (5, 6), (2, 5, 6)])
def test_round_trip(shape: tuple[int, ...]):
    ids = np.random.default_rng(3).choice(np.array([0, 1, 2, 3, 255], np.uint8), size=shape)
    mask_rgb = rgb_from_class_ids(ids, CLASSES, VIOLET)
    assert mask_rgb.shape == (*shape, 3)
    again, known = class_ids_from_rgb(mask_rgb, CLASSES, RecordsConfig(ignore_color=VIOLET))
    np.testing.assert_array_equal(again, ids)
    assert known.all()
