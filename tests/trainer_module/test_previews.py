"""Pictures of training: whole images from their tiles."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from examples import tile, write_examples
from numpy.typing import NDArray
from PIL import Image

from flexunet.core.config.section import part_of
from flexunet.core.config.train import TrainerConfig
from flexunet.core.palette import rgb_from_class_ids
from trainer_module import previews
from transform_module import images

# Heights and widths: less than a tile, several tiles, one wide strip.
SIZES = ((20, 30), (50, 41), (33, 150))


class Reader(keras.Model):
    """Tells the class that the red of each pixel is, and nonsense at a tile's border, where a network sees least."""

    def call(self, pixels: Any, training: bool | None = None) -> Any:
        told = keras.ops.one_hot(keras.ops.cast(pixels[..., 0], "int32"), 4)
        border = np.pad(np.zeros((30, 30, 1), np.float32), ((1, 1), (1, 1), (0, 0)), constant_values=1)
        return told * (1 - border) + border * np.array([0, 0, 0, 1], np.float32)


def pictures(sizes: tuple[tuple[int, int], ...]) -> list[NDArray[np.uint8]]:
    """Blocks of classes 0 to 2 in the red channel, `[h, w, 3]` each."""
    drawn = []
    for height, width in sizes:
        class_ids = (np.add.outer(np.arange(height) // 7, np.arange(width) // 11) % 3).astype(np.uint8)
        drawn.append(np.repeat(class_ids[..., np.newaxis], 3, axis=-1))
    return drawn


def drawn(folder: Path, config: TrainerConfig, sizes: tuple[tuple[int, int], ...]) -> Path:
    """Writes what Transform gives and has it drawn once."""
    whole = pictures(sizes)
    cut = [
        (images.fit_image(image, config.image).numpy(), images.fit_class_ids(image[..., 0], config.image).numpy())
        for image in whole
    ]
    pairs = zip(cut, whole, strict=True)
    write_examples(folder / "eval.gz", (tile(*tiles, size=image.shape[:2]) for tiles, image in pairs))
    callback = previews.Previews([str(folder / "eval.gz")], config, folder)
    callback.set_model(Reader())
    callback.on_train_begin()
    callback.on_epoch_end(0)
    callback.on_train_end()
    return folder / "previews"


@pytest.fixture
def config(make_config: Any) -> TrainerConfig:
    settings = {"fit": "tile", "tile_overlap": 8}
    return part_of(make_config(image=settings, train={"preview_images": 3, "batch_size": 4}), TrainerConfig)


def test_images_in_tiles_are_shown_whole_and_blended(tmp_path: Path, config: TrainerConfig) -> None:
    folder = drawn(tmp_path, config, SIZES)
    strips = {name: Image.open(folder / f"{name}.png") for name in ("images", "truth", "epoch-0001")}
    assert {strip.info["images"] for strip in strips.values()} == {"3"}
    assert {strip.size for strip in strips.values()} == {(3 * 150, 50)}
    for index, image in enumerate(pictures(SIZES)):
        height, width = image.shape[:2]
        box = (index * 150, 0, index * 150 + width, height)
        np.testing.assert_array_equal(np.asarray(strips["images"].crop(box)), image)
        expected = rgb_from_class_ids(image[..., 0], config.classes, None)
        np.testing.assert_array_equal(np.asarray(strips["truth"].crop(box)), expected)
        # What a tile says at its border is outvoted by its neighbour; at the image's own border there is none.
        predicted = np.asarray(strips["epoch-0001"].crop(box))
        np.testing.assert_array_equal(predicted[1 : height - 1, 1 : width - 1], expected[1:-1, 1:-1])


def test_of_a_large_image_the_upper_left_is_predicted(
    tmp_path: Path, config: TrainerConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(previews, "_LARGEST_PART", 80)
    with caplog.at_level("INFO"):
        folder = drawn(tmp_path, config, ((33, 150), (20, 30)))
    # Three tiles of 32 that share 8.
    assert Image.open(folder / "epoch-0001.png").size == (2 * 80, 33)
    assert "previews show the upper left 80 pixels of 1 larger images" in caplog.text
    expected = pictures(((33, 80),))[0]
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "images.png").crop((0, 0, 80, 33))), expected)
