"""What the report shows of a training: curves, and how the masks of the same images changed from epoch to epoch."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

from flexunet.core.epochs import Epochs
from flexunet.core.features import PREVIEWS_NUMBER, TRAINING_PREVIEWS
from flexunet.reporting.charts import LineChart, Series, line_chart
from flexunet.reporting.look import data_uri

# Pictures beside the epochs': the images and their truth.
_IMAGES: Final = "images"
_TRUTH: Final = "truth"
_EPOCHS_SHOWN: Final = 12
_IMAGES_SHOWN: Final = 8
_STRIP_WIDTH: Final = 960
# Images that are wider than high stand in several rows, so that none is lower than this, about.
_LOWEST: Final = 120
_AUGMENTED_WIDTH: Final = 800
# Between two images whose masks are black to the edge.
_GAP_COLOR: Final = (148, 163, 184)


@dataclass(frozen=True)
class Strip:
    """The same images in a row, after one epoch."""

    words: str
    uri: str
    width: int
    height: int


def charts(history: Epochs, best: int | None) -> list[LineChart]:
    """Loss, foreground Dice and learning rate by epoch."""
    if not history:
        return []
    pairs = (("Loss", "loss", "val_loss"), ("Foreground Dice", "foreground_dice", "val_foreground_dice"))
    drawn = [
        line_chart(
            title,
            "epoch",
            [
                Series("train", "var(--second)", _points(history, train), dashed=True),
                Series("eval", "var(--first)", _points(history, steered)),
            ],
            best,
            "kept",
        )
        for title, train, steered in pairs
    ]
    rate = Series("learning rate", "var(--first)", _points(history, "learning_rate"))
    return [*drawn, line_chart("Learning rate", "epoch", [rate])]


def strips(folder: Path, best: int | None) -> list[Strip]:
    """Images, truth, then a dozen epochs: the early ones, when most changes, the kept one and the last.

    Args:
      folder: of a training, with `previews/`.
      best: the epoch that was kept.
    """
    previews = folder / TRAINING_PREVIEWS
    epochs = sorted(int(path.stem.removeprefix("epoch-")) for path in previews.glob("epoch-*.png"))
    if not epochs:
        return []
    named = [("image", _IMAGES), ("truth", _TRUTH)]
    named += [
        (f"epoch {epoch}{', kept' if epoch == best else ''}", f"epoch-{epoch:04d}")
        for epoch in _shown_epochs(epochs, best)
    ]
    paths = [(words, previews / f"{name}.png") for words, name in named]
    return [_strip(words, path) for words, path in paths if path.is_file()]


def augmented(path: Path) -> Strip | None:
    """What augmentation made of a few tiles."""
    if not path.is_file():
        return None
    with Image.open(path) as image:
        return _encoded("augmented training images", image.convert("RGB"), _AUGMENTED_WIDTH, "JPEG")


def _points(history: Epochs, column: str) -> list[tuple[float, float | None]]:
    return [(row["epoch"], row.get(column)) for row in history]


def _shown_epochs(epochs: Sequence[int], best: int | None) -> list[int]:
    """Evenly spaced by their logarithm, ends and best included."""
    wanted = {epochs[0], epochs[-1]}
    wanted |= {best} & {*epochs} if best is not None else set()
    places = _EPOCHS_SHOWN - len(wanted)
    ratio = len(epochs) ** (1 / (places + 1))
    for step in range(1, places + 1):
        later = [epoch for epoch in epochs[round(ratio**step) - 1 :] if epoch not in wanted]
        wanted |= {*later[:1]}
    return sorted(wanted)


def _strip(words: str, path: Path) -> Strip:
    with Image.open(path) as image:
        number, row = int(image.info.get(PREVIEWS_NUMBER, 1)), image.convert("RGB")
    width, height = row.width // number, row.height
    number = min(_IMAGES_SHOWN, number)
    columns = min(number, max(1, round(_STRIP_WIDTH * height / (_LOWEST * width))))
    gap = max(1, height // 64)
    shown = Image.new("RGB", (columns * (width + gap) - gap, -(-number // columns) * (height + gap) - gap), _GAP_COLOR)
    for index in range(number):
        one = row.crop((index * width, 0, (index + 1) * width, height))
        shown.paste(one, (index % columns * (width + gap), index // columns * (height + gap)))
    return _encoded(words, shown, _STRIP_WIDTH, "JPEG" if path.stem == _IMAGES else "PNG")


def _encoded(words: str, image: Image.Image, width: int, kind: str) -> Strip:
    """Masks keep their colours: no interpolation, and a palette, which is a third of the bytes."""
    scale = min(1.0, width / image.width)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    buffer = io.BytesIO()
    if kind == "JPEG":
        image.resize(size, Image.Resampling.BOX).save(buffer, kind, quality=85, optimize=True)
    else:
        small = image.resize(size, Image.Resampling.NEAREST)
        small.quantize(256, dither=Image.Dither.NONE).save(buffer, kind, optimize=True)
    return Strip(words, data_uri(buffer.getvalue(), kind.lower()), *size)
