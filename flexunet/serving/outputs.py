"""What is written of a prediction: pictures to look at, or annotations that labelling tools load."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexunet.core import features
from flexunet.core.config.whole import Config
from flexunet.core.disk import naming, words_of
from flexunet.core.errors import UserError
from flexunet.core.files import replace_file, replace_text
from flexunet.core.finder import AREAS_FILE, holds_predictions
from flexunet.core.outlines import coco_annotations, labelme_document
from flexunet.core.palette import rgb_from_class_ids
from flexunet.core.pictures import png
from flexunet.reporting.overlays import outlined
from flexunet.serving.exported import ServedConfig

COCO_FILE: Final = "annotations.json"
_OVERLAY_OPACITY: Final = 0.5


class CannotWriteError(UserError):
    """A prediction cannot be written: nor can those of other images."""


class Written(NamedTuple):
    """The files that hold one image's prediction; None of another format."""

    mask: Path | None = None
    overlay: Path | None = None
    annotations: Path | None = None


class Output:
    """Writes one image's prediction after the other; the base writes coloured masks and overlays."""

    def __init__(self, out: Path, config: ServedConfig | Config) -> None:
        self.out, self.config = out, config

    def write(self, image: Path, stem: str, pixels: Image.Image, class_ids: NDArray[np.uint8]) -> Written:
        """Writes what belongs to one image.

        Args:
          image: its file.
          stem: unlike those of other images.
          pixels: the image, upright.
          class_ids: uint8 `[h, w]`.

        Raises:
          CannotWriteError: the disk is full or closed.
        """
        mask_rgb = rgb_from_class_ids(class_ids, self.config.classes, self.config.records.ignore_color)
        tinted = overlay(pixels, mask_rgb, class_ids)
        mask_file, overlay_file = (self.out / name for name in _names("png", stem))
        with _writing():
            replace_file(mask_file, png(Image.fromarray(mask_rgb)))
            replace_file(overlay_file, png(tinted))
        return Written(mask_file, overlay_file)


class LabelmeOutput(Output):
    """Writes `STEM.json` for each image, to lie beside it."""

    def write(self, image: Path, stem: str, pixels: Image.Image, class_ids: NDArray[np.uint8]) -> Written:
        """As in the base."""
        document = labelme_document(image.name, class_ids, [c.name for c in self.config.classes])
        [file] = (self.out / name for name in _names("labelme", stem))
        with _writing():
            replace_text(file, json.dumps(document))
        return Written(annotations=file)


class CocoOutput(Output):
    """Writes regions as they come, images and categories at the end: memory holds a line for each image."""

    def __init__(self, out: Path, config: ServedConfig | Config, file: TextIO, images: Sequence[Path]) -> None:
        super().__init__(out, config)
        self._file, self._written = file, 0
        names = [image.name for image in images]
        self._are_unlike = len(set(names)) == len(names)
        self._images: list[dict[str, object]] = []
        file.write('{"annotations": [')

    def write(self, image: Path, stem: str, pixels: Image.Image, class_ids: NDArray[np.uint8]) -> Written:
        """As in the base."""
        height, width = class_ids.shape
        name = image.name if self._are_unlike else image.as_posix()
        self._images.append({"id": len(self._images) + 1, "file_name": name, "width": width, "height": height})
        with _writing(), naming(self.out / COCO_FILE):
            for region in coco_annotations(len(self._images), self._written + 1, class_ids):
                self._file.write(("," if self._written else "") + "\n" + json.dumps(region))
                self._written += 1
        return Written(annotations=self.out / COCO_FILE)

    def finish(self) -> None:
        """Writes the rest of the document."""
        categories = [{"id": i, "name": c.name} for i, c in enumerate(self.config.classes) if i]
        self._file.write(f'\n], "images": {json.dumps(self._images)}, "categories": {json.dumps(categories)}}}\n')


def require_free(kind: str, out: Path, stems: Iterable[str]) -> None:
    """Refuses to write over what a person may have drawn: masks that lie beside their images are called as ours are,
    and annotations are there to be corrected.

    Raises:
      UserError: names the first file.
    """
    there = {path.name for path in out.iterdir()} if out.is_dir() else set[str]()
    is_ours = holds_predictions(out)
    wanted = [] if is_ours and kind == "png" else [name for stem in stems for name in _names(kind, stem)]
    # An empty table was left by a full disk.
    if AREAS_FILE in there and not is_ours and (out / AREAS_FILE).stat().st_size:
        wanted.append(AREAS_FILE)
    taken = [name for name in dict.fromkeys(wanted) if name in there]
    if taken:
        more = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
        raise UserError(
            f"{out / taken[0]}{more}: there already, and not to be written over, since a person may have made it; "
            "expected a folder without: name another --out, or remove it"
        )


def _names(kind: str, stem: str) -> list[str]:
    """The files that hold one image's prediction."""
    return {
        "png": [f"{stem}_mask.png", f"{stem}_overlay.png"],
        "labelme": [f"{stem}.json"],
        "coco": [COCO_FILE],
    }[kind]


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotWriteError(words_of(error)) from None


@contextmanager
def opened(kind: str, out: Path, config: ServedConfig | Config, images: Sequence[Path]) -> Iterator[Output]:
    """Png, coco or labelme; a document of many images is whole only when the body ended well."""
    if kind == "coco":
        aside = out / f".{COCO_FILE}.incomplete"
        try:
            with naming(out / COCO_FILE), aside.open("w", encoding="utf-8") as file:
                output = CocoOutput(out, config, file, images)
                yield output
                output.finish()
            aside.replace(out / COCO_FILE)
        finally:
            aside.unlink(missing_ok=True)
    else:
        yield LabelmeOutput(out, config) if kind == "labelme" else Output(out, config)


def overlay(image: Image.Image, mask_rgb: NDArray[np.uint8], class_ids: NDArray[np.uint8]) -> Image.Image:
    """The image with its defects tinted, and outlined so that they are seen on any surface; the rest stays as it is."""
    base = np.asarray(image.convert("RGB"), np.float32)
    opacity = np.where(class_ids == features.BACKGROUND_ID, 0.0, _OVERLAY_OPACITY)[..., np.newaxis]
    return Image.fromarray(outlined((base * (1 - opacity) + mask_rgb * opacity).round().astype(np.uint8), class_ids))
