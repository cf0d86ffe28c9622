"""The images worth looking at: each with truth, prediction and errors, as small files that a page stacks.

The image and the three masks are stored once each, and the masks' outlines; the browser lays them over the image.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexunet.core.config.gate import GateSettings
from flexunet.core.files import write_json
from flexunet.core.palette import color_table
from flexunet.core.results.model import ErrorCounts, GalleryImage
from flexunet.core.root import ReportFolder
from flexunet.reporting import mistakes, overlays

# Pictures get smaller until all of them fit; base64 adds a third, and a page must stay below 15 MB.
MOST_BYTES: Final = 8_000_000
_SIDES: Final = (640, 448, 320, 224, 160, 96)
_JPEG_QUALITY: Final = 85


@dataclass(frozen=True)
class Predicted:
    """One image.

    `which`: of worst, median, best, or none of them; `encoded`: a picture of 8 bits, upright; `truth` and `predicted`:
    class ids uint8 `[h, w]`.
    """

    which: list[str]
    image_id: str
    dice: float
    encoded: bytes
    truth: NDArray[np.uint8]
    predicted: NDArray[np.uint8]


def write_gallery(report: ReportFolder, images: Sequence[Predicted], settings: GateSettings) -> None:
    """Writes `gallery.json` and the pictures, none of them larger than fits into a page."""
    report.gallery.mkdir(parents=True, exist_ok=True)
    side, pictures = fitting_pictures(images, settings)
    rows: list[GalleryImage] = []
    for number, (image, files) in enumerate(zip(images, pictures, strict=True)):
        names = {part: f"{number:03d}-{part}.{'jpg' if part == 'image' else 'png'}" for part in files}
        for part, name in names.items():
            (report.gallery / name).write_bytes(files[part])
        rows.append(_row(image, settings, side, names))
    write_json(report.gallery_index, rows)


def fitting_pictures(images: Sequence[Predicted], settings: GateSettings) -> tuple[int, list[dict[str, bytes]]]:
    """The largest pictures of which all together fit into a page.

    What a smaller side would take is guessed from what a larger one took.

    Args:
      images: at least one.
      settings: classes and colours.

    Returns:
      The longer side, in pixels, and for each image its files by part: `image`, a JPEG, and PNGs to lay over it,
      `truth`, `predicted`, `errors` and the outlines of each, as in `truth_lines`.
    """
    guessed = 0.0
    for side in _SIDES[:-1]:
        if guessed * side**2 <= MOST_BYTES:
            pictures = [_pictures(image, side, settings) for image in images]
            total = sum(len(data) for files in pictures for data in files.values())
            if total <= MOST_BYTES:
                return side, pictures
            guessed = total / side**2
    return _SIDES[-1], [_pictures(image, _SIDES[-1], settings) for image in images]


def _row(image: Predicted, settings: GateSettings, side: int, files: dict[str, str]) -> GalleryImage:
    height, width = image.truth.shape
    gate = settings.gate
    counted = mistakes.count_errors(
        image.truth, image.predicted, len(settings.classes), gate.defect_overlap, gate.false_alarm_share
    )
    named = zip(settings.classes, counted, strict=True)
    classes: dict[str, ErrorCounts] = {c.name: counts for c, counts in named if any(counts.values())}
    return {
        "id": image.image_id,
        "which": image.which,
        "dice": image.dice,
        "height": height,
        "width": width,
        "classes": classes,
        "pixels": _error_pixels(image),
        "side": side,
        "files": files,
    }


def _error_pixels(image: Predicted) -> dict[str, int]:
    counts = np.bincount(mistakes.error_map(image.truth, image.predicted).ravel(), minlength=1 + len(mistakes.KINDS))
    return {kind: int(counts[1 + index]) for index, kind in enumerate(mistakes.KINDS)}


def _pictures(image: Predicted, side: int, settings: GateSettings) -> dict[str, bytes]:
    """The files of one image, its longer side at most `side` pixels; the overlays of a small one are larger than it."""
    height, width = image.truth.shape
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    kinds = np.zeros((256, 3), np.uint8)
    kinds[1 : 1 + len(mistakes.KINDS)] = [mistakes.COLORS[kind] for kind in mistakes.KINDS]
    errors = mistakes.error_map(image.truth, image.predicted)
    masks = {"truth": image.truth, "predicted": image.predicted, "errors": errors}
    pictures = {"image": _photo(image.encoded, size)}
    for part, mask in masks.items():
        shown = overlays.enlarged(np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)), side)
        pictures[part] = overlays.fill_png(shown, kinds if part == "errors" else color_table(settings.classes))
        pictures[f"{part}_lines"] = overlays.outline_png(shown, dashed=part == "predicted")
    return pictures


def _photo(encoded: bytes, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(encoded)) as image:
        shown = image.convert("RGB").resize(size, Image.Resampling.BOX)
        shown.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return buffer.getvalue()
