"""RGB to class ids by exact colour."""

import numpy as np
import pytest
import tensorflow as tf

from flexunet.core import palette
from flexunet.core.config.data import RecordsConfig, SegmentationClass
from flexunet.core.features import IGNORE_ID
from transform_module import masks

CLASSES = (
    SegmentationClass(name="background", color=(0, 0, 0)),
    SegmentationClass(name="scratch", color=(255, 0, 0)),
    SegmentationClass(name="patch", color=(0, 0, 255)),
)
MASK = np.array([[[0, 0, 0], [255, 0, 0]], [[0, 0, 255], [255, 0, 0]]], np.uint8)


def test_literal_colors_become_literal_ids() -> None:
    ids = masks.class_ids_from_rgb(tf.constant(MASK), CLASSES, RecordsConfig(), tf.constant("a"))
    np.testing.assert_array_equal(ids, [[0, 1], [2, 1]])
    assert ids.dtype == tf.uint8


def test_the_graph_and_numpy_agree_both_ways() -> None:
    ids, known = palette.class_ids_from_rgb(MASK, CLASSES, RecordsConfig())
    assert known.all()
    np.testing.assert_array_equal(palette.rgb_from_class_ids(ids, CLASSES), MASK)


def test_the_ignore_color_becomes_the_ignore_id() -> None:
    records = RecordsConfig(ignore_color=(9, 9, 9))
    mask = np.array([[[9, 9, 9], [255, 0, 0]]], np.uint8)
    np.testing.assert_array_equal(
        masks.class_ids_from_rgb(tf.constant(mask), CLASSES, records, tf.constant("a")), [[IGNORE_ID, 1]]
    )


@pytest.mark.parametrize("color", [(254, 0, 0), (0, 1, 0), (255, 255, 255)])
def test_an_unknown_color_names_color_and_image(color: tuple[int, int, int]) -> None:
    mask = MASK.copy()
    mask[0, 0] = color
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        tf.function(lambda: masks.class_ids_from_rgb(mask, CLASSES, RecordsConfig(), tf.constant("steel-7")))()
    assert "steel-7" in str(error.value)
    assert " ".join(map(str, color)) in str(error.value)


def test_decodes_the_png_exactly() -> None:
    np.testing.assert_array_equal(masks.decode_mask(tf.io.encode_png(MASK)), MASK)
