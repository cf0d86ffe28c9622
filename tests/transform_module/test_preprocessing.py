"""Literal rows in, literal rows out."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from flexunet.core.config.data import TransformConfig
from flexunet.core.config.section import part_of
from flexunet.core.sources import source_of
from transform_module.preprocessing import preprocessing_fn

IMAGE = np.arange(32 * 32 * 3, dtype=np.int64).reshape(32, 32, 3).astype(np.uint8)
MASK = np.zeros((32, 32, 3), np.uint8)
MASK[:16] = (0, 255, 0)


def rows(images: list[np.ndarray], masks: list[np.ndarray]) -> dict[str, tf.Tensor]:
    return {
        "image/encoded": tf.stack([[tf.io.encode_png(i)] for i in images]),
        "mask/encoded": tf.stack([[tf.io.encode_png(m)] for m in masks]),
        "image/id": tf.constant([[f"row-{i}"] for i in range(len(images))]),
    }


@pytest.fixture
def custom_config(make_config: Any) -> dict[str, str]:
    return {"config": part_of(make_config(), TransformConfig).model_dump_json()}


def test_pixels_and_ids_survive(custom_config: dict[str, str]) -> None:
    outputs = preprocessing_fn(rows([IMAGE, IMAGE[::-1]], [MASK, MASK[::-1]]), custom_config)
    images = [tf.io.parse_tensor(row, tf.uint8) for row in outputs["image"]]
    class_ids = [tf.io.parse_tensor(row, tf.uint8) for row in outputs["class_ids"]]
    np.testing.assert_array_equal(images[1][0], IMAGE[::-1])
    np.testing.assert_array_equal(class_ids[0][0], [[2] * 32] * 16 + [[0] * 32] * 16)
    np.testing.assert_array_equal(class_ids[1][0], [[0] * 32] * 16 + [[2] * 32] * 16)


def test_differently_sized_images_share_a_batch(custom_config: dict[str, str]) -> None:
    large = np.full((70, 90, 3), 7, np.uint8)
    outputs = preprocessing_fn(rows([IMAGE, large], [MASK, np.zeros((70, 90, 3), np.uint8)]), custom_config)
    np.testing.assert_array_equal(
        tf.io.parse_tensor(outputs["image"][1], tf.uint8), np.full((1, 32, 32, 3), 7, np.uint8)
    )


def test_sizes_that_differ_name_the_image(custom_config: dict[str, str]) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="row-0"):
        preprocessing_fn(rows([IMAGE], [MASK[:31]]), custom_config)


def test_a_color_outside_the_palette_names_the_image(custom_config: dict[str, str]) -> None:
    wrong = MASK.copy()
    wrong[3, 3] = (1, 2, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"row-0.*1 2 3"):
        tf.function(lambda: preprocessing_fn(rows([IMAGE], [wrong]), custom_config))()


def test_of_tiles_the_images_own_sizes_come_too(make_config: Any) -> None:
    settings = {"fit": "tile", "tile_overlap": 8}
    config = {"config": part_of(make_config(image=settings), TransformConfig).model_dump_json()}
    wide = np.full((40, 90, 3), 7, np.uint8)
    outputs = preprocessing_fn(rows([IMAGE, wide], [MASK, np.zeros((40, 90, 3), np.uint8)]), config)
    assert [tf.io.parse_tensor(row, tf.int32).numpy().tolist() for row in outputs["size"]] == [[32, 32], [40, 90]]
    assert [len(tf.io.parse_tensor(row, tf.uint8)) for row in outputs["image"]] == [1, 8]


NAMES = ["rendered", "a/b", "50 % (new)+", "ö.x"]


@pytest.mark.parametrize(
    ("image_id", "source"),
    [
        ("rendered/1", "rendered"),
        ("span-2/rendered/deep/1", "rendered"),
        ("train/a/b/1", "a/b"),
        ("a/1", ""),
        ("xrendered/1", ""),
        ("renderedx/1", ""),
        ("rendered", ""),
        ("50 % (new)+/rendered/1", "rendered"),
        ("50 % (new)+/1", "50 % (new)+"),
        ("ö.x/1", "ö.x"),
        ("öyx/1", ""),
    ],
)
def test_the_source_of_an_image_is_the_same_in_the_graph_and_beside_it(
    make_config: Any, image_id: str, source: str
) -> None:
    config = part_of(
        make_config(dataset={"sources": dict.fromkeys(NAMES, 0.1)}, train={"batch_size": 8}), TransformConfig
    )
    inputs = {**rows([IMAGE], [MASK]), "image/id": tf.constant([[image_id]])}
    outputs = preprocessing_fn(inputs, {"config": config.model_dump_json()})
    assert outputs["source"].numpy()[0].decode() == source == source_of(image_id, config.dataset.sources)


def test_groups_go_along_where_training_asks_for_them(make_config: Any) -> None:
    config = part_of(make_config(dataset={"equal_groups": True}), TransformConfig)
    inputs = {**rows([IMAGE, IMAGE], [MASK, MASK]), "image/group": tf.constant([["a"], ["b"]])}
    outputs = preprocessing_fn(inputs, {"config": config.model_dump_json()})
    assert outputs["group"].numpy().tolist() == [b"a", b"b"]
    without = preprocessing_fn(inputs, {"config": part_of(make_config(), TransformConfig).model_dump_json()})
    assert "group" not in without
