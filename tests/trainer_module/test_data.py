"""Batches for training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from trainer_module import data


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Twelve records; image i is filled with i, and so are its class ids modulo 4, but for a corner."""
    path = tmp_path / "records.gz"
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for index in range(12):
            image = np.full((1, 32, 32, 3), index, np.uint8)
            class_ids = np.full((1, 32, 32), index % 4, np.uint8)
            image[0, :4, :8], class_ids[0, :4, :8] = 200, 3
            row = {"image": image, "class_ids": class_ids}
            feature = {
                key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[tf.io.serialize_tensor(value).numpy()]))
                for key, value in row.items()
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    return [str(path)]


def order(dataset: tf.data.Dataset, batches: int) -> list[int]:
    return [int(image[16, 16, 0]) for images, _ in dataset.take(batches) for image in images.numpy()]


def test_counts_tiles(files: list[str], make_config: Any) -> None:
    assert data.count_tiles(files, make_config()) == 12


def test_an_epoch_holds_each_image_once_and_the_order_changes(files: list[str], make_config: Any) -> None:
    batches = data.training_batches(files, 12, make_config(), cache=True)
    first_two = order(batches, 6)
    assert sorted(first_two) == sorted([*range(12), *range(12)])
    assert first_two[:12] != list(range(12))


def test_the_order_repeats_for_a_seed(files: list[str], make_config: Any) -> None:
    def once(seed: int) -> list[int]:
        return order(data.training_batches(files, 12, make_config(train={"seed": seed, "flips": True}), cache=True), 6)

    assert once(1) == once(1)
    assert once(1) != once(2)


def test_evaluation_keeps_order_and_the_last_small_batch(files: list[str], make_config: Any) -> None:
    config = make_config(train={"batch_size": 5})
    batches = list(data.evaluation_batches(files, 12, config, cache=True))
    assert [len(images) for images, _ in batches] == [5, 5, 2]
    assert order(data.evaluation_batches(files, 12, config, cache=False), 3) == list(range(12))


def test_without_cache_the_batches_are_the_same(files: list[str], make_config: Any) -> None:
    config = make_config()
    cached, streamed = (order(data.training_batches(files, 12, config, cache), 6) for cache in (True, False))
    assert cached == streamed


def test_the_cache_is_used_only_while_it_fits(make_config: Any) -> None:
    config = make_config(train={"cache_megabytes": 1})
    tile = 32 * 32 * 4
    assert data.fits_in_memory(2**20 // tile, config)
    assert not data.fits_in_memory(2**20 // tile + 1, config)


def test_flips_move_image_and_class_ids_together(files: list[str], make_config: Any) -> None:
    batches = data.training_batches(files, 12, make_config(train={"flips": True}), cache=True)
    corners = set()
    for images, class_ids in batches.take(12):
        bright = images[..., 0] == 200
        np.testing.assert_array_equal(tf.boolean_mask(class_ids, bright), 3)
        corners |= {(bool(b[0, 0]), bool(b[0, -1]), bool(b[-1, 0]), bool(b[-1, -1])) for b in bright.numpy()}
    assert len(corners) == 4
