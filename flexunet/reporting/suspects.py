"""`suspects.html`: masks that are likely wrong, each beside its image and the prediction, in one file."""

from collections.abc import Sequence
from typing import Final

from flexunet.core.config.gate import GateSettings
from flexunet.core.results.suspects import Suspect, Suspects
from flexunet.reporting.charts import Histogram
from flexunet.reporting.gallery import Predicted, fitting_pictures
from flexunet.reporting.look import Variables, data_uri, environment, rgb
from flexunet.reporting.overlays import pattern_css

SUSPECTS_PAGE: Final = "suspects.html"
_BINS: Final = 20
_STRIP: Final = 2


def render_suspects(found: Suspects, shown: Sequence[Predicted], settings: GateSettings) -> str:
    """The page; the same input gives the same text.

    Args:
      found: all of what was found.
      shown: the first of its suspects, in their order.
      settings: classes and colours.
    """
    side, pictures = fitting_pictures(shown, settings) if shown else (0, [])
    rows = zip(found["suspects"], shown, pictures, strict=False)
    return (
        environment()
        .get_template("suspects.html.j2")
        .render(
            found=found,
            colors={c.name: rgb(c.color) for c in settings.classes},
            pattern=pattern_css,
            qualities=_qualities(found["suspects"]),
            cases=[_case(row, image, files, side) for row, image, files in rows],
        )
    )


def _case(row: Suspect, image: Predicted, files: dict[str, bytes], side: int) -> Variables:
    height, width = image.truth.shape
    return {
        **row,
        "width": width,
        "height": height,
        "is_long": width > _STRIP * height,
        "is_smaller": side < max(width, height),
        "photo": data_uri(files["image"], "jpeg"),
        "masks": [
            (words, *(data_uri(files[name], "png") for name in (part, f"{part}_lines")))
            for words, part in (("mask", "truth"), ("prediction", "predicted"))
        ],
    }


def _qualities(suspects: Sequence[Suspect]) -> Histogram:
    counts = [0] * _BINS
    for row in suspects:
        counts[min(int(row["quality"] * _BINS), _BINS - 1)] += 1
    labels = [f"{edge / _BINS:g}" for edge in range(_BINS + 1)]
    return Histogram("Quality of all masks", "the lower, the likelier wrong", labels, counts, labelled_every=5)
