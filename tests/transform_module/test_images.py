"""Fitting an image to the model and its scores back, eagerly and inside tf.data."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from flexunet.core.config.data import ImageConfig
from flexunet.core.features import IGNORE_ID
from flexunet.core.fit import at_model_size, inner_size, keeps_every_pixel
from transform_module import images, unfit

STRETCH = ImageConfig(height=8, width=8, fit="stretch")
PAD = ImageConfig(height=8, width=8, fit="pad")
TILE = ImageConfig(height=8, width=8, fit="tile", tile_overlap=2)
FITS = pytest.mark.parametrize("settings", [STRETCH, PAD, TILE], ids=lambda s: s.fit)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels)).astype(np.uint8)


def decoded(encoded: Any, settings: ImageConfig = STRETCH) -> np.ndarray:
    image, problem = images.decode_one(encoded, settings)
    assert problem == b""
    return image.numpy()


def in_tf_data(function: Any, *values: Any) -> Any:
    dataset = tf.data.Dataset.from_tensors(values).map(function)
    return dataset.get_single_element()


@pytest.mark.parametrize("encode", [tf.io.encode_png, tf.image.encode_png], ids=["io", "image"])
def test_decodes_png_exactly(encode: Any) -> None:
    pixels = noise(5, 7)
    np.testing.assert_array_equal(decoded(encode(pixels)), pixels)


def test_grey_sixteen_bit_and_alpha_become_rgb() -> None:
    grey = noise(4, 4, 1)
    np.testing.assert_array_equal(decoded(tf.io.encode_png(grey)), np.repeat(grey, 3, -1))
    deep = grey.astype(np.uint16) * 257
    np.testing.assert_array_equal(decoded(tf.io.encode_png(deep)), np.repeat(grey, 3, -1))
    assert decoded(tf.io.encode_png(noise(4, 4, 4))).shape == (4, 4, 3)


@FITS
def test_an_image_of_the_models_size_is_not_changed(settings: ImageConfig) -> None:
    pixels = noise(8, 8)
    np.testing.assert_array_equal(images.fit_image(pixels, settings), pixels[np.newaxis])


@FITS
@pytest.mark.parametrize("size", [(8, 8), (5, 9), (20, 6), (31, 47), (1, 1)])
def test_eager_and_tf_data_agree(settings: ImageConfig, size: tuple[int, int]) -> None:
    pixels, class_ids = noise(*size), noise(*size)[..., 0] % 4
    np.testing.assert_array_equal(
        images.fit_image(pixels, settings), in_tf_data(lambda p: images.fit_image(p, settings), pixels)
    )
    np.testing.assert_array_equal(
        images.fit_class_ids(class_ids, settings),
        in_tf_data(lambda i: images.fit_class_ids(i, settings), class_ids),
    )


@FITS
@pytest.mark.parametrize("size", [(16, 16), (5, 9), (20, 6), (31, 47)])
def test_class_ids_make_no_fringes(settings: ImageConfig, size: tuple[int, int]) -> None:
    """SEED defect 4: bilinear interpolation between ids 0 and 3 would invent 1 and 2."""
    class_ids = np.zeros(size, np.uint8)
    class_ids[:, size[1] // 2 :] = 3
    found = set(np.unique(images.fit_class_ids(class_ids, settings)))
    assert found <= {0, 3, IGNORE_ID}
    assert {0, 3} <= found


@FITS
@pytest.mark.parametrize("size", [(8, 8), (12, 30), (20, 6), (31, 47)])
def test_there_and_back_keeps_a_picture_of_large_regions(settings: ImageConfig, size: tuple[int, int]) -> None:
    class_ids = np.zeros(size, np.uint8)
    class_ids[size[0] // 2 :] = 1
    tiles = images.fit_class_ids(class_ids, settings)
    probabilities = tf.one_hot(tf.where(tiles == IGNORE_ID, tf.constant(0, tf.uint8), tiles), 2)
    back = unfit.unfit_probabilities(probabilities, tf.constant(size), settings)
    assert back.shape == (*size, 2)
    wrong = np.mean(np.argmax(back, -1) != class_ids)
    # A border moves by at most half a pixel of the model; tiles keep the scale.
    model_rows = {"stretch": 8, "pad": round(8 * size[0] / max(size)), "tile": np.inf}[settings.fit]
    assert wrong <= 0.5 / model_rows + 1e-9


def test_tiles_cover_every_pixel_once_they_are_joined() -> None:
    pixels = noise(31, 47)
    probabilities = tf.cast(images.fit_image(pixels, TILE), tf.float32) / 255
    joined = unfit.unfit_probabilities(probabilities, tf.constant([31, 47]), TILE)
    np.testing.assert_allclose(joined, pixels / 255, atol=1e-6)


def test_pad_keeps_the_aspect_and_marks_the_padding() -> None:
    wide = np.full((4, 16), 2, np.uint8)
    fitted = images.fit_class_ids(wide, PAD).numpy()[0]
    np.testing.assert_array_equal(fitted[:2], np.full((2, 8), 2))
    np.testing.assert_array_equal(fitted[2:], np.full((6, 8), IGNORE_ID))


def test_a_wide_strip_is_cut_not_squashed() -> None:
    strip = noise(8, 50)
    tiles = images.fit_image(strip, TILE)
    np.testing.assert_array_equal(tiles[0], strip[:, :8])
    np.testing.assert_array_equal(tiles[1], strip[:, 6:14])
    assert tiles.shape[0] == 8


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_ingest_counts_what_the_graph_leaves_of_a_mask(fit: Any) -> None:
    """Rows and columns are independent of each other: their numbers, in two bytes, tell every pixel."""
    generator = np.random.default_rng(3)
    sizes = [(h, w) for h in (1, 2, 7, 63, 64, 65, 191, 192) for w in (1, 3, 64, 400)]
    sizes += [(int(h), int(w)) for h, w in generator.integers(1, 1500, (60, 2))]
    for height, width in sizes:
        model = [8 * int(side) for side in generator.integers(1, 30, 2)]
        settings = ImageConfig(height=model[0], width=model[1], fit=fit)
        inner = inner_size(height, width, settings)
        for numbers in np.indices((height, width)):
            for part in (numbers % 250, numbers // 250):
                ids = part.astype(np.uint8)
                fitted = images.fit_class_ids(tf.constant(ids), settings)[0].numpy()
                np.testing.assert_array_equal(fitted[: inner[0], : inner[1]], at_model_size(ids, settings))
        if keeps_every_pixel(height, width, settings):
            numbered = np.arange(height * width).reshape(height, width)
            assert len(np.unique(at_model_size(numbered, settings))) == height * width
