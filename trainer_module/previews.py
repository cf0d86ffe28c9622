"""Pictures of training: how the masks of a few images change from epoch to epoch, and what augmentation makes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from flexunet.core import features
from flexunet.core.config.train import TrainerConfig
from flexunet.core.palette import rgb_from_class_ids
from trainer_module.augment import make_augment
from trainer_module.data import tiles_dataset

# Beside one `epoch-0001.png` for each epoch, all of them strips of the same tiles.
IMAGES_FILE: Final = "images.png"
TRUTH_FILE: Final = "truth.png"
_AUGMENTED_TILES: Final = 4
_DRAWS: Final = 5
_LARGEST_SIDE: Final = 256


class Previews(keras.callbacks.Callback):
    """After each epoch, the predicted masks of the first tiles of `eval`, as PNG and in TensorBoard."""

    def __init__(self, files: Sequence[str], config: TrainerConfig, log_directory: Path) -> None:
        super().__init__()
        self._config, self._directory = config, log_directory / features.TRAINING_PREVIEWS
        pairs = tiles_dataset(files, config).take(config.train.preview_images)
        self._images, self._truth = (np.stack(part) for part in zip(*pairs.as_numpy_iterator(), strict=True))

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._writer = tf.summary.create_file_writer(str(self._directory))
        self._save(IMAGES_FILE, "images", _strip(self._images), 0)
        self._save(TRUTH_FILE, "truth", _strip(self._colored(self._truth)), 0)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        class_ids = np.concatenate([self._predict(batch) for batch in self._batches()])
        self._save(f"epoch-{epoch + 1:04d}.png", "epoch", _strip(self._colored(class_ids)), epoch)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self._writer.close()

    def _batches(self) -> list[NDArray[np.uint8]]:
        size = self._config.train.batch_size
        return [self._images[start : start + size] for start in range(0, len(self._images), size)]

    def _predict(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        model: Any = self.model
        probabilities: Any = keras.ops.convert_to_numpy(model(images, training=False))
        return np.argmax(probabilities, axis=-1).astype(np.uint8)

    def _colored(self, class_ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return rgb_from_class_ids(class_ids, self._config.classes, self._config.records.ignore_color)

    def _save(self, name: str, tag: str, picture: NDArray[np.uint8], epoch: int) -> None:
        Image.fromarray(picture).save(self._directory / name)
        with self._writer.as_default():
            tf.summary.image(tag, picture[np.newaxis], step=epoch)


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
        rows += [_strip(np.stack(images)), _strip(colors)]
    log_directory.mkdir(parents=True, exist_ok=True)
    picture = np.concatenate(rows)
    Image.fromarray(picture).save(log_directory / features.TRAINING_AUGMENTED)
    with tf.summary.create_file_writer(str(log_directory / features.TRAINING_PREVIEWS)).as_default():
        tf.summary.image("augmented", picture[np.newaxis], step=0)


def _strip(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`[N, height, width, 3]` -> `[height, N * width, 3]`, every k-th pixel of tiles that are larger than a preview."""
    step = -(-max(pictures.shape[1:3]) // _LARGEST_SIDE)
    return np.concatenate(list(pictures[:, ::step, ::step]), axis=1)
