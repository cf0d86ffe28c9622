"""Predictions of a model folder on image files: coloured masks, overlays and a table of areas."""

import csv
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline import features
from pipeline.errors import UserError
from pipeline.palette import as_rgb, rgb_from_class_ids
from serving.exported import ServedConfig, exported_config, model_directory

AREAS_FILE: Final = "areas.csv"
_OVERLAY_OPACITY: Final = 0.5
_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})


@dataclass(frozen=True)
class Failure:
    """An image without a prediction, and why."""

    image: Path
    reason: str


class LocalModel:
    """A SavedModel of this project in the current process; needs TensorFlow."""

    def __init__(self, directory: Path) -> None:
        import tensorflow as tf  # the rest of this module must work without TensorFlow

        self._directory = model_directory(directory)
        self.config = exported_config(self._directory)
        try:
            self._model = tf.saved_model.load(str(self._directory))
            self._predict = self._model.signatures[features.SIGNATURE_SERVING]
        # TensorFlow raises many kinds for a damaged export.
        except Exception as error:
            raise UserError(f"{self._directory}: cannot be loaded ({_first_line(error)}): export it again") from error
        self._constant = tf.constant

    def class_ids(self, encoded: bytes) -> NDArray[np.uint8]:
        """Encoded image -> class ids uint8 `[h, w]` at the image's own size."""
        outputs: dict[str, Any] = self._predict(image_bytes=self._constant([encoded]))
        mask_png = outputs[features.OUTPUT_MASK_PNG].numpy()[0]
        return np.asarray(Image.open(io.BytesIO(mask_png)))


def image_files(paths: Sequence[Path], out: Path) -> list[Path]:
    """Files as given, folders walked for images; what lies in `out` are predictions and left out.

    Raises:
      UserError: a path does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for path in paths:
        inside = [path] if not path.is_dir() else sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES)
        inside = [p for p in inside if not p.resolve().is_relative_to(out.resolve())]
        if not inside or not path.exists():
            raise UserError(f"{path}: no image here, expected a file or folder of {', '.join(sorted(_SUFFIXES))}")
        found += inside
    return found


def predict_files(
    model: LocalModel, images: Sequence[Path], out: Path, step: Callable[[], None] = lambda: None
) -> list[Failure]:
    """Writes `STEM_mask.png`, `STEM_overlay.png` for each image and `areas.csv`; returns what failed."""
    out.mkdir(parents=True, exist_ok=True)
    failures: list[Failure] = []
    with (out / AREAS_FILE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "class", "pixels", "share"])
        for image, stem in zip(images, _output_stems(images), strict=True):
            try:
                class_ids = model.class_ids(image.read_bytes())
                _write_pictures(image, class_ids, out / stem, model.config)
            # TensorFlow raises many kinds for a broken image; each is named, none stops the others.
            except Exception as error:  # noqa: BLE001
                failures.append(Failure(image, _first_line(error)))
            else:
                writer.writerows(_areas(image, class_ids, model.config))
            step()
    return failures


def overlay(image: Image.Image, mask_rgb: NDArray[np.uint8], class_ids: NDArray[np.uint8]) -> Image.Image:
    """The image with its defects tinted; the background stays as it is."""
    base = np.asarray(as_rgb(image), np.float32)
    opacity = np.where(class_ids == features.BACKGROUND_ID, 0.0, _OVERLAY_OPACITY)[..., np.newaxis]
    return Image.fromarray((base * (1 - opacity) + mask_rgb * opacity).round().astype(np.uint8))


def _output_stems(images: Sequence[Path]) -> Iterator[str]:
    """The files' stems; a stem that occurs again gets a number, so that nothing is overwritten."""
    taken: set[str] = set()
    names = {image.stem for image in images}
    for image in images:
        numbered = (f"{image.stem}-{number}" for number in itertools.count(2))
        free = (name for name in numbered if name not in taken | names)
        stem = image.stem if image.stem not in taken else next(free)
        taken.add(stem)
        yield stem


def _write_pictures(image: Path, class_ids: NDArray[np.uint8], target: Path, config: ServedConfig) -> None:
    mask_rgb = rgb_from_class_ids(class_ids, config.classes, config.records.ignore_color)
    tinted = overlay(Image.open(image), mask_rgb, class_ids)
    Image.fromarray(mask_rgb).save(target.with_name(f"{target.name}_mask.png"))
    tinted.save(target.with_name(f"{target.name}_overlay.png"))


def _areas(image: Path, class_ids: NDArray[np.uint8], config: ServedConfig) -> Iterator[tuple[str, str, int, str]]:
    pixels = np.bincount(class_ids.ravel(), minlength=len(config.classes))
    for segmentation_class, count in zip(config.classes, pixels, strict=False):
        yield str(image), segmentation_class.name, int(count), f"{count / class_ids.size:.6f}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
