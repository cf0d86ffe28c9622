"""Tiles cut anywhere from whole images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from examples import tile, write_examples

from flexunet.core.config.data import ImageConfig
from trainer_module import data
from trainer_module.crops import crops, join_tiles
from transform_module import images

TILE = ImageConfig(height=16, width=32, fit="tile", tile_overlap=4)
SETTINGS: Any = {"image": {"height": 16, "width": 16, "fit": "tile", "tile_overlap": 4}, "augment": {"crops": True}}


def places(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose pixels tell where they are, red the row and green the column, and no defect."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, 0 * rows], -1).astype(np.uint8), np.zeros((height, width), np.uint8)


@pytest.mark.parametrize("overlap", [0, 4])
@pytest.mark.parametrize("size", [(16, 32), (40, 100), (41, 33), (9, 100), (200, 20)])
def test_tiles_are_put_together_again(size: tuple[int, int], overlap: int) -> None:
    settings = TILE.model_copy(update={"tile_overlap": overlap})
    image, class_ids = places(*size)
    covered = np.maximum(size, (16, 32))
    padded = np.pad(class_ids, [(0, covered[0] - size[0]), (0, covered[1] - size[1])], constant_values=255)
    joined = join_tiles(images.fit_image(tf.constant(image), settings), tf.constant(size), settings)
    np.testing.assert_array_equal(joined[: size[0], : size[1]], image)
    joined_ids = join_tiles(images.fit_class_ids(tf.constant(class_ids), settings), tf.constant(size), settings)
    np.testing.assert_array_equal(joined_ids, padded)
    assert joined.shape == (*covered, 3)


def test_crops_lie_anywhere_in_the_image_and_no_pixel_is_moved() -> None:
    image, class_ids = places(40, 100)
    cut = tf.function(crops(0, TILE))
    corners = set()
    for index in range(60):
        tiles, ids = cut(image, class_ids, tf.constant([1, index], tf.int64))
        # As many as the image is cut into: three down, four across.
        assert tiles.shape == (12, 16, 32, 3) and ids.shape == (12, 16, 32)
        for one in tiles.numpy():
            top, left = one[0, 0, :2]
            np.testing.assert_array_equal(one, image[top : top + 16, left : left + 32])
            corners.add((int(top), int(left)))
    assert {top for top, _ in corners} == set(range(25))
    assert {left for _, left in corners} == set(range(69))


def test_a_wanted_defect_of_one_pixel_is_in_every_crop_and_an_image_gives_one() -> None:
    image, class_ids = places(40, 100)
    class_ids[0, 99] = class_ids[20, 50] = 2
    cut, found = tf.function(crops(2, TILE)), []
    for index in range(12):
        tiles, ids = cut(image, class_ids, tf.constant([3, index], tf.int64))
        assert tiles.shape == (1, 16, 32, 3) and ids.shape == (1, 16, 32)
        assert (ids.numpy() == 2).any()
        found.append(tiles[0].numpy())
    # Either of the two, and the one that is in no corner of the image at several places of the tile.
    assert len({tuple(one[0, 0]) for one in found}) > 2
    assert {bool((one[..., 1] == 99).any()) for one in found} == {True, False}


@pytest.fixture
def strips(tmp_path: Path) -> list[str]:
    """Twelve strips of 16x100, one of which shows a pixel of class 1, another one of class 2."""
    image_settings = ImageConfig(**SETTINGS["image"])

    def drawn(index: int) -> bytes:
        image, class_ids = places(16, 100)
        image[..., 2] = index
        class_ids[5, 60] = {3: 1, 8: 2}.get(index, 0)
        fitted = images.fit_image(tf.constant(image), image_settings)
        ids = images.fit_class_ids(tf.constant(class_ids), image_settings)
        return tile(fitted.numpy(), ids.numpy(), (16, 100))

    return [str(write_examples(tmp_path / "strips.gz", map(drawn, range(12))))]


def test_an_epoch_holds_as_many_tiles_as_before_cut_elsewhere_each_time(strips: list[str], make_config: Any) -> None:
    config = make_config(**SETTINGS)
    tiles = data.count_tiles(strips, config)
    assert tiles == 96
    batches = list(data.training_batches(strips, tiles, config, cache="").take(48))
    for epoch in (batches[:24], batches[24:]):
        numbers = np.concatenate([tiles[:, 0, 0, 2] for tiles, _ in epoch])
        np.testing.assert_array_equal(np.bincount(numbers), [8] * 12)
    first, second = (
        {tuple(one[0, 0]) for tiles, _ in part for one in tiles.numpy()} for part in (batches[:24], batches[24:])
    )
    assert len(first & second) < 0.5 * len(first)
    whole = [tiles.numpy() for tiles, _ in batches]
    for cache, first_epoch in ((None, 1), ("", 1)):
        again = data.training_batches(strips, tiles, config, cache, first_epoch).take(24)
        np.testing.assert_array_equal([tiles.numpy() for tiles, _ in again], whole[24:])


def test_the_share_with_defects_is_cut_around_them(strips: list[str], make_config: Any) -> None:
    config = make_config(**SETTINGS, train={"batch_size": 4, "defect_share": 0.5})
    corners = set()
    for tiles, class_ids in data.training_batches(strips, 96, config, cache="").take(48):
        assert (class_ids[0].numpy() == 1).any() and (class_ids[1].numpy() == 2).any()
        corners.add(int(tiles[0, 0, 0, 1]))
    # Of the sixteen places at which a tile holds column 60.
    assert len(corners) > 10 and corners <= set(range(45, 61))
