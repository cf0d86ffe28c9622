"""Image and class ids change together, masks without fringes, the same again for a seed, eagerly and in tf.data."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from flexunet.core.config.train import AugmentConfig
from flexunet.core.features import IGNORE_ID
from trainer_module.augment import make_augment

SIZE = 32
SHAPES = {
    "rotations": (-20.0, 90.0),
    "shrink": 0.4,
    "zoom": 0.5,
    "shear": 15.0,
    "elastic": 0.05,
    "distortion": 0.05,
    "barrel": 0.3,
}
FLIPS = {"horizontal_flip": True, "vertical_flip": True, "symmetries": True}
INTENSITIES = {"sharpen": 1.0, "brighten": 40.0, "contrast": 0.5, "noise": 10.0}
EVERY = SHAPES | FLIPS | INTENSITIES


def blocks(ignored: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Class ids in blocks that no symmetry maps onto themselves, and an image that shows each id as 60 grey levels."""
    class_ids = np.zeros((SIZE, SIZE), np.uint8)
    class_ids[3:14, 5:20], class_ids[18:30, 2:9], class_ids[20:27, 17:31] = 1, 2, 3
    image = np.repeat(class_ids[..., np.newaxis] * 60, 3, axis=2)
    if ignored:
        class_ids[3:8, 5:12] = IGNORE_ID
    return image, class_ids


def run(settings: dict[str, Any], seed: int, ignored: bool = False) -> tuple[np.ndarray, np.ndarray]:
    augment = make_augment(AugmentConfig(probability=1.0, **settings), SIZE, SIZE)
    assert augment is not None
    image, class_ids = augment(*map(tf.constant, blocks(ignored)), tf.constant([7, seed], tf.int64))
    return image.numpy(), class_ids.numpy()


def test_nothing_asked_is_no_function() -> None:
    assert make_augment(AugmentConfig(), SIZE, SIZE) is None


@pytest.mark.parametrize("name", sorted(SHAPES | FLIPS))
def test_masks_follow_the_image_without_fringes(name: str) -> None:
    moved = 0
    for seed in range(12):
        image, class_ids = run({name: EVERY[name]}, seed)
        assert image.dtype == class_ids.dtype == np.uint8
        assert set(np.unique(class_ids)) <= {0, 1, 2, 3}
        # An edge pixel of the image is blended; inside, image and mask must agree.
        inside = np.abs(image[..., 0].astype(int) - class_ids * 60) <= 2
        assert inside.mean() > 0.75
        # A mask drawn apart from its image would agree by chance only.
        assert (np.abs(image[..., 0].astype(int) - blocks()[0][..., 0]) <= 2).mean() <= inside.mean()
        moved += not np.array_equal(class_ids, blocks()[1])
    assert moved >= 3


@pytest.mark.parametrize("name", sorted(INTENSITIES))
def test_grey_levels_change_and_masks_do_not(name: str) -> None:
    image, class_ids = run({name: EVERY[name]}, 1)
    np.testing.assert_array_equal(class_ids, blocks()[1])
    assert not np.array_equal(image, blocks()[0])
    # Grey stays grey.
    assert np.array_equal(image[..., 0], image[..., 1]) and np.array_equal(image[..., 0], image[..., 2])


@pytest.mark.parametrize("name", [*sorted(EVERY), "all"])
def test_tf_data_gives_what_eager_gives_and_a_seed_repeats(name: str) -> None:
    settings = EVERY if name == "all" else {name: EVERY[name]}
    augment = make_augment(AugmentConfig(**settings), SIZE, SIZE)
    assert augment is not None
    seeds = [[7, index] for index in range(8)]
    dataset = tf.data.Dataset.from_tensor_slices(tf.constant(seeds, tf.int64))
    pair = [tf.constant(part) for part in blocks()]
    streamed = list(dataset.map(lambda seed: augment(*pair, seed), num_parallel_calls=2).as_numpy_iterator())
    again = [augment(*pair, tf.constant(seed, tf.int64)) for seed in seeds]
    for (image, class_ids), (eager_image, eager_ids) in zip(streamed, again, strict=True):
        # Compiled kernels may round a half the other way.
        np.testing.assert_allclose(image.astype(int), eager_image.numpy().astype(int), atol=1)
        np.testing.assert_array_equal(class_ids, eager_ids)
    assert len({image.tobytes() for image, _ in streamed}) > 1


def test_ignored_pixels_stay_ignored_and_grow_nowhere() -> None:
    for seed in range(6):
        _, class_ids = run(SHAPES, seed, ignored=True)
        assert set(np.unique(class_ids)) <= {0, 1, 2, 3, IGNORE_ID}
    _, class_ids = run(FLIPS, 3, ignored=True)
    assert (class_ids == IGNORE_ID).sum() == (blocks(ignored=True)[1] == IGNORE_ID).sum()


def test_a_quarter_turn_is_numpys() -> None:
    image, class_ids = run({"rotations": (90.0,)}, 0)
    np.testing.assert_array_equal(class_ids, np.rot90(blocks()[1]))
    np.testing.assert_array_equal(image, np.rot90(blocks()[0]))


def test_the_eight_symmetries_all_occur() -> None:
    expected = {np.rot90(base, turns).tobytes() for base in (blocks()[1], blocks()[1].T) for turns in range(4)}
    assert {run({"symmetries": True}, seed)[1].tobytes() for seed in range(64)} == expected


def test_a_wide_image_is_never_transposed() -> None:
    augment = make_augment(AugmentConfig(symmetries=True), 8, 16)
    assert augment is not None
    image = tf.zeros([8, 16, 3], tf.uint8)
    shapes = {augment(image, image[..., 0], tf.constant([0, i], tf.int64))[0].shape for i in range(8)}
    assert shapes == {tf.TensorShape([8, 16, 3])}


def test_zoom_shows_a_part_and_shrink_the_whole_again_and_mirrored() -> None:
    ramp = np.repeat(np.arange(0, SIZE * 4, 4, np.uint8)[:, np.newaxis], SIZE, axis=1)
    image = tf.constant(np.repeat(ramp[..., np.newaxis], 3, axis=2))

    def span(**settings: float) -> list[int]:
        augment = make_augment(AugmentConfig(probability=1.0, **settings), SIZE, SIZE)
        assert augment is not None
        rows = augment(image, image[..., 0], tf.constant([0, 1], tf.int64))[0].numpy()[:, 0, 0].astype(int)
        return [rows.max() - rows.min(), rows[SIZE // 2] - rows[SIZE // 2 - 1], np.argmax(rows) == SIZE - 1]

    assert span(zoom=1.0)[0] < 31 * 4 - 8 and span(zoom=1.0)[1] < 4
    # Smaller: steps between rows are larger, and the last row is beyond the border, mirrored.
    assert span(shrink=0.5)[1] > 4 and not span(shrink=0.5)[2]


def test_barrel_keeps_the_centre_and_moves_the_corners_by_its_strength() -> None:
    from trainer_module.augment import barrel

    half = tf.constant([15.5, 15.5])
    coordinates = tf.constant([[[0.0, 0.0], [15.5, 15.5], [0.0, 15.5]]])
    moved = [barrel(0.3, half)(coordinates, tf.constant([0, i], tf.int64)).numpy()[0] for i in range(200)]
    factors = np.array([m[1, 0] / 15.5 for m in moved])
    assert all(np.array_equal(m[0], [0, 0]) for m in moved)
    assert 0.7 <= factors.min() < 0.75 and 1.25 < factors.max() <= 1.3
    # Half of the corner's squared radius, half of its displacement.
    np.testing.assert_allclose([m[2, 1] / 15.5 - 1 for m in moved], (factors - 1) / 2, atol=1e-6)


def test_brighten_adds_up_to_its_amount_and_saturates() -> None:
    values = [int(run({"brighten": 40.0}, seed)[0][10, 10, 0]) - 60 for seed in range(50)]
    assert -40 <= min(values) < -30 and 30 < max(values) <= 40
    assert min(int(run({"brighten": 40.0}, seed)[0].min()) for seed in range(10)) == 0


def test_contrast_keeps_the_mean_and_sharpen_keeps_flat_areas() -> None:
    image, _ = run({"contrast": 0.3}, 2)
    assert image.mean() == pytest.approx(blocks()[0].mean(), abs=6)
    image, _ = run({"sharpen": 1.0}, 2)
    assert image[8, 12, 0] == 60 and image[3, 12, 0] > 60


def test_the_probability_is_kept() -> None:
    augment = make_augment(AugmentConfig(probability=0.25, brighten=40.0), SIZE, SIZE)
    assert augment is not None
    pair = [tf.constant(part) for part in blocks()]
    changed = [not np.array_equal(augment(*pair, tf.constant([1, i], tf.int64))[0], blocks()[0]) for i in range(400)]
    assert np.mean(changed) == pytest.approx(0.25, abs=0.07)
