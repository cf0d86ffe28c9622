"""Tiles against the whole image: the same answers, no seams, every pixel covered."""

from typing import Any

import keras
import numpy as np
import pytest
from layers import config_of

from flexunet.core import scores
from flexunet.core.config.train import ModelConfig, TrainConfig
from flexunet.dataset.synthetic import generate_surface
from flexunet.serving.tiling import predict_tiled, tile_starts
from flexunet.serving.transport import ServingError
from trainer_module.losses import make_loss
from trainer_module.model import build_model

TILE = 64
LAYERS = ModelConfig(num_layers=4, base_filters=8, base_kernel=3, dropout=0.0, normalization="batch")


class Answering:
    """A model in this process that is asked as a server is."""

    def __init__(self, predict: Any) -> None:
        self.predict, self.tiles = predict, 0

    def run(self, signature: str, inputs: dict[str, np.ndarray], outputs: Any = ()) -> dict[str, np.ndarray]:
        assert signature == "probabilities"
        self.tiles += len(inputs["pixels"])
        return {"probabilities": self.predict(inputs["pixels"])}


def by_color(pixels: np.ndarray) -> np.ndarray:
    """Pixel by pixel, so that tiles must give exactly what the whole gives."""
    return np.eye(4, dtype=np.float32)[pixels[..., 0] % 4] * 0.7 + 0.075


@pytest.mark.parametrize("size", [(64, 64), (65, 64), (200, 333), (30, 500), (10, 20), (1, 1)])
@pytest.mark.parametrize("overlap", [0, 7, 32, None])
def test_every_pixel_gets_its_own_answer_at_any_size_and_overlap(size: tuple[int, int], overlap: int | None) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    model: Any = Answering(by_color)
    prediction = predict_tiled(model, rgb, (TILE, TILE), overlap)
    np.testing.assert_array_equal(prediction.class_ids, rgb[..., 0] % 4)
    assert prediction.confidence == pytest.approx(0.775, abs=1e-5)
    np.testing.assert_allclose(
        prediction.class_fractions, np.bincount(rgb[..., 0].ravel() % 4, minlength=4) / rgb[..., 0].size
    )


def test_tiles_begin_evenly_and_end_with_the_image() -> None:
    assert tile_starts(64, 64, 16) == [0]
    assert tile_starts(112, 64, 16) == [0, 48]
    assert tile_starts(113, 64, 16) == [0, 24, 49]
    for size in range(64, 400, 7):
        starts = tile_starts(size, 64, 24)
        assert starts[0] == 0 and starts[-1] == size - 64
        assert max(np.diff([*starts, size - 64])) <= 64 - 24


@pytest.mark.parametrize("overlap", [-1, 33])
def test_an_overlap_that_cannot_be_is_refused(overlap: int) -> None:
    model: Any = Answering(by_color)
    with pytest.raises(ValueError, match="expected from 0 to half of the tile's side, 32"):
        predict_tiled(model, np.zeros((100, 100, 3), np.uint8), (TILE, TILE), overlap)


def test_a_model_that_gives_no_number_gives_no_mask() -> None:
    """argmax over NaN is the background: an image without defect."""
    model: Any = Answering(lambda pixels: np.where(pixels[..., :1] > 250, np.nan, by_color(pixels)))
    rgb = np.zeros((100, 100, 3), np.uint8)
    assert (predict_tiled(model, rgb, (TILE, TILE)).class_ids == 0).all()
    rgb[80, 80] = 255
    with pytest.raises(ServingError, match="the model gave no number"):
        predict_tiled(model, rgb, (TILE, TILE))


def surfaces(indices: range) -> tuple[np.ndarray, np.ndarray]:
    """Steel surfaces of four tiles by four, uint8 `[N, h, w, 3]`, and class ids."""
    pairs = [generate_surface(5, index, 4 * TILE) for index in indices]
    return np.stack([image for image, _ in pairs]), np.stack([class_ids for _, class_ids in pairs])


def cut(images: np.ndarray) -> np.ndarray:
    blocks = images.reshape(len(images), 4, TILE, 4, TILE, *images.shape[3:]).swapaxes(2, 3)
    return blocks.reshape(-1, TILE, TILE, *images.shape[3:])


@pytest.fixture(scope="module")
def trained() -> keras.Model:
    """Trained on tiles of surfaces; deep enough that a tile's border is felt in its middle."""
    keras.utils.set_random_seed(0)
    images, class_ids = surfaces(range(24))
    model = build_model(config_of(LAYERS, TILE))
    rate = keras.optimizers.schedules.CosineDecay(1e-2, 24 * 20)
    model.compile(keras.optimizers.Adam(rate), make_loss(TrainConfig(loss="cross_entropy_dice"), ()))
    model.fit(cut(images), cut(class_ids), batch_size=16, epochs=20, verbose=0)
    return model


def near(lines: list[float], size: int) -> np.ndarray:
    """Where a pixel is within 8 pixels of a horizontal or vertical line, bool `[size, size]`."""
    close = np.abs(np.arange(size)[:, None] + 0.5 - np.array(lines)[None]).min(axis=1) <= 8
    return close[:, None] | close[None]


@pytest.mark.slow
def test_tiles_do_as_well_as_the_whole_image_and_no_seam_shows(trained: keras.Model) -> None:
    whole = build_model(config_of(LAYERS, 4 * TILE))
    whole.set_weights(trained.get_weights())
    tiled_model: Any = Answering(trained.predict_on_batch)
    images, truth = surfaces(range(100, 106))
    direct = np.stack([whole.predict_on_batch(image[None])[0].argmax(-1) for image in images])
    tiled = np.stack([predict_tiled(tiled_model, image, (TILE, TILE)).class_ids for image in images])
    counts = [np.zeros((4, 4)), np.zeros((4, 4))]
    for table, class_ids in zip(counts, (direct, tiled), strict=True):
        np.add.at(table, (truth.ravel(), class_ids.ravel()), 1)
    of_direct, of_tiled = (scores.foreground_dice(table) for table in counts)
    assert of_direct > 0.6
    assert of_tiled >= of_direct - 0.01
    borders = [edge for start in tile_starts(4 * TILE, TILE, TILE // 2) for edge in (start, start + TILE)]
    seam = near([edge for edge in borders if 0 < edge < 4 * TILE], 4 * TILE)
    disagreement = (direct != tiled).mean(axis=0)
    assert disagreement[seam].mean() <= 1.5 * disagreement[~seam].mean()
