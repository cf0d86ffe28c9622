"""Pictures of training: how the masks of a few images change from epoch to epoch, and what augmentation makes.

With `image.fit = "tile"` whole images are shown, their masks blended from tiles as the export does it.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from flexunet.core import features
from flexunet.core.config.data import ImageConfig
from flexunet.core.config.train import TrainerConfig
from flexunet.core.palette import rgb_from_class_ids
from trainer_module.augment import make_augment
from trainer_module.crops import join_tiles
from trainer_module.data import images_dataset, tiles_dataset
from transform_module import unfit
from transform_module.geometry import tile_grid, tile_strides

logger = logging.getLogger("flexunet.train")

# Beside one `epoch-0001.png` for each epoch, all of them strips of the same images.
IMAGES_FILE: Final = "images.png"
TRUTH_FILE: Final = "truth.png"
_AUGMENTED_TILES: Final = 4
_DRAWS: Final = 5
# The longer side of an image in a strip: of one that is one tile, and of one that is cut.
_LARGEST_SIDE: Final = 256
_LARGEST_CUT_SIDE: Final = 512
# Rows and columns of an image in tiles that are predicted after each epoch, about.
_LARGEST_PART: Final = 2048
# Below and to the right of an image that is smaller than its neighbours in the strip.
_NO_IMAGE: Final = (148, 163, 184)


class Cut(NamedTuple):
    """An image in tiles.

    Attributes:
      tiles: uint8 `[tiles, height, width, 3]`.
      class_ids: uint8 `[tiles, height, width]`.
      size: int32 `[2]`, of the image that the tiles cover.
    """

    tiles: NDArray[np.uint8]
    class_ids: NDArray[np.uint8]
    size: NDArray[np.int32]


class Previews(keras.callbacks.Callback):
    """After each epoch, the predicted masks of the first images of `eval`, as PNG and in TensorBoard."""

    def __init__(self, files: Sequence[str], config: TrainerConfig, log_directory: Path) -> None:
        super().__init__()
        self._config, self._directory = config, log_directory / features.TRAINING_PREVIEWS
        self._cuts: list[Cut] = []
        larger = 0
        for row in images_dataset(files, config).take(config.train.preview_images).as_numpy_iterator():
            whole = Cut(*row)
            self._cuts.append(upper_left(whole, config.image))
            larger += len(self._cuts[-1].tiles) < len(whole.tiles)
        if larger:
            logger.info("previews show the upper left %d pixels of %d larger images", _LARGEST_PART, larger)

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._writer = tf.summary.create_file_writer(str(self._directory))
        settings = self._config.image
        self._save(IMAGES_FILE, "images", [_put_together(cut.tiles, cut.size, settings) for cut in self._cuts], 0)
        truth = [_put_together(cut.class_ids, cut.size, settings) for cut in self._cuts]
        self._save(TRUTH_FILE, "truth", self._colored(truth), 0)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._save(f"epoch-{epoch + 1:04d}.png", "epoch", self._colored(self._predicted()), epoch)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self._writer.close()

    def _predicted(self) -> list[NDArray[np.uint8]]:
        """Class ids uint8 `[h, w]` of each image."""
        settings = self._config.image
        if settings.fit != "tile":
            of_all = self._probabilities(np.concatenate([cut.tiles for cut in self._cuts]))
            return list(np.argmax(of_all, axis=-1).astype(np.uint8))
        return [
            unfit.class_ids_and_confidence(self._probabilities(cut.tiles), cut.size, settings)[0].numpy()
            for cut in self._cuts
        ]

    def _probabilities(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 `[N, height, width, 3]` -> float32 `[N, height, width, C]`, a batch of training at a time."""
        model: Any = self.model
        size = self._config.train.batch_size
        batches = [tiles[start : start + size] for start in range(0, len(tiles), size)]
        parts: list[Any] = [keras.ops.convert_to_numpy(model(batch, training=False)) for batch in batches]
        return np.concatenate(parts).astype(np.float32)

    def _colored(self, class_ids: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        return [rgb_from_class_ids(ids, self._config.classes, self._config.records.ignore_color) for ids in class_ids]

    def _save(self, name: str, tag: str, pictures: Sequence[NDArray[np.uint8]], epoch: int) -> None:
        strip = _strip(pictures, _LARGEST_CUT_SIDE if self._config.image.fit == "tile" else _LARGEST_SIDE)
        number = PngImagePlugin.PngInfo()
        number.add_text(features.PREVIEWS_NUMBER, str(len(pictures)))
        Image.fromarray(strip).save(self._directory / name, pnginfo=number)
        with self._writer.as_default():
            tf.summary.image(tag, strip[np.newaxis], step=epoch)


def upper_left(cut: Cut, settings: ImageConfig) -> Cut:
    """So many of an image's tiles that their prediction stays cheap, and the size of what they cover."""
    if settings.fit != "tile":
        return cut
    strides = np.array(tile_strides(settings))
    grid = tile_grid(tf.constant(cut.size), settings).numpy()
    kept = np.minimum(grid, np.maximum(1, _LARGEST_PART // strides))
    tiles, class_ids = (
        part.reshape(*grid, *part.shape[1:])[: kept[0], : kept[1]].reshape(-1, *part.shape[1:])
        for part in (cut.tiles, cut.class_ids)
    )
    return Cut(tiles, class_ids, np.minimum(cut.size, kept * strides + settings.tile_overlap).astype(np.int32))


def _put_together(tiles: NDArray[np.uint8], size: NDArray[np.int32], settings: ImageConfig) -> NDArray[np.uint8]:
    """`[tiles, height, width, ...]` as cut from one image -> `[h, w, ...]`."""
    if settings.fit != "tile":
        return tiles[0]
    return join_tiles(tf.constant(tiles), tf.constant(size), settings).numpy()[: size[0], : size[1]]


def draw_augmented(files: Sequence[str], config: TrainerConfig, log_directory: Path) -> None:
    """Writes `augmented.png`: a few tiles as they are, then draws of each, every one above its mask."""
    augment = make_augment(config.augment, config.image.height, config.image.width)
    if augment is None:
        return
    rows: list[NDArray[np.uint8]] = []
    for index, (image, class_ids) in enumerate(tiles_dataset(files, config).take(_AUGMENTED_TILES)):
        seeds = [tf.constant([config.train.seed + index, draw], tf.int64) for draw in range(_DRAWS)]
        images, masks = zip((image, class_ids), *(augment(image, class_ids, seed) for seed in seeds), strict=True)
        colors = rgb_from_class_ids(np.stack(masks), config.classes, config.records.ignore_color)
        rows += [_strip([np.asarray(one) for one in images], _LARGEST_SIDE), _strip(list(colors), _LARGEST_SIDE)]
    log_directory.mkdir(parents=True, exist_ok=True)
    picture = np.concatenate(rows)
    Image.fromarray(picture).save(log_directory / features.TRAINING_AUGMENTED)
    with tf.summary.create_file_writer(str(log_directory / features.TRAINING_PREVIEWS)).as_default():
        tf.summary.image("augmented", picture[np.newaxis], step=0)


def _strip(pictures: Sequence[NDArray[np.uint8]], largest_side: int) -> NDArray[np.uint8]:
    """`[h, w, 3]` each -> `[height, N * width, 3]`, side by side: every k-th pixel of all if one is too large."""
    step = -(-max(max(picture.shape[:2]) for picture in pictures) // largest_side)
    small = [picture[::step, ::step] for picture in pictures]
    height, width = (max(picture.shape[axis] for picture in small) for axis in (0, 1))
    strip = np.full((height, len(small) * width, 3), _NO_IMAGE, np.uint8)
    for index, picture in enumerate(small):
        strip[: picture.shape[0], index * width : index * width + picture.shape[1]] = picture
    return strip
