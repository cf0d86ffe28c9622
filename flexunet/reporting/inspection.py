"""What an inspector asks of a model, as charts and words: how many are missed, of which size, at which cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from flexunet.core.detection import Model
from flexunet.core.operating_point import PIXELS_OF_MEGAPIXEL
from flexunet.core.results.metrics import CurvePoint, Detection
from flexunet.core.results.operating import OperatingPoint
from flexunet.reporting.charts import LineChart, Series, line_chart

_CURVE_POINTS: Final = 48
# Observed shares are drawn for sizes that are so close together.
_BIN: Final = math.log(1.5)


@dataclass(frozen=True)
class Missed:
    """Defects of one class: how many were found, of how many."""

    name: str
    found: int
    present: int

    @property
    def missed(self) -> int:
        """How many were not."""
        return self.present - self.found


def missed_defects(detection: Sequence[Detection]) -> list[Missed]:
    """All together, then each class."""
    return [
        Missed(row["name"], *(round(sum(size[key] for size in row["sizes"])) for key in ("found", "present")))
        for row in detection
    ]


def detection_charts(detection: Sequence[Detection]) -> list[LineChart]:
    """Probability of detection by size, a chart for all defects and each class that has a curve."""
    return [
        line_chart(
            row["name"],
            "size: side of the square of the area, in pixels",
            [
                Series("found, by size", "var(--second)", _observed(row), dots=True),
                Series("fitted curve", "var(--first)", _fitted(row)),
                Series("its 95 % interval", "var(--first)", [(size, low) for size, low, _ in row["band"]], dashed=True),
                Series("", "var(--first)", [(size, high) for size, _, high in row["band"]], dashed=True),
            ],
            marked=row["a90_95"],
            marked_words="a90/95",
            y_range=(0.0, 1.0),
        )
        for row in detection
        if row["intercept"] is not None
    ]


def curve_charts(curves: Sequence[CurvePoint], point: OperatingPoint | None) -> list[LineChart]:
    """Found share by false regions, a chart for each class; marked is the threshold that the model has."""
    charts = []
    for name in dict.fromkeys(row["name"] for row in curves):
        rows = [row for row in curves if row["name"] == name and row["found_share"] is not None]
        chosen = [row for row in rows if point and row["threshold"] == point["thresholds"].get(name)]
        if rows:
            marked = chosen[0]["false_regions_per_megapixel"] if chosen else None
            charts.append(
                line_chart(
                    name,
                    "false regions per megapixel",
                    [
                        Series("found", "var(--first)", _curve(rows, None)),
                        Series("its 95 % interval", "var(--first)", _curve(rows, 0), dashed=True),
                        Series("", "var(--first)", _curve(rows, 1), dashed=True),
                    ],
                    marked=marked,
                    marked_words=f"threshold {chosen[0]['threshold']:g}" if chosen else "",
                    y_range=(0.0, 1.0),
                )
            )
    return charts


def per_square_metre(per_megapixel: float | None, pixel_size: float | None) -> float | None:
    """Of false regions; `pixel_size` in millimetres. None where either is not known."""
    if per_megapixel is None or pixel_size is None:
        return None
    return per_megapixel / PIXELS_OF_MEGAPIXEL / (pixel_size / 1000) ** 2


def _curve(rows: Sequence[CurvePoint], end: int | None) -> list[tuple[float, float | None]]:
    """From the highest threshold to the lowest; `end` 0 or 1 of the interval instead of the share."""
    points = []
    for row in reversed(rows):
        share = row["found_share"] if end is None else (row["found_interval"] or [None, None])[end]
        points.append((row["false_regions_per_megapixel"] or 0.0, share))
    return points


def _observed(row: Detection) -> list[tuple[float, float | None]]:
    """Shares of the defects of about one size."""
    bins: dict[int, tuple[float, float, float]] = {}
    for size in row["sizes"]:
        at = math.floor(math.log(size["size"]) / _BIN)
        present, found, weighted = bins.get(at, (0.0, 0.0, 0.0))
        bins[at] = present + size["present"], found + size["found"], weighted + size["present"] * size["size"]
    return [(weighted / present, found / present) for present, found, weighted in bins.values()]


def _fitted(row: Detection) -> list[tuple[float, float | None]]:
    curve = Model(np.array(row["intercept"], np.float64), np.array(row["slope"], np.float64))
    low, high = row["sizes"][0]["size"], row["sizes"][-1]["size"]
    sizes = [low + (high - low) * index / (_CURVE_POINTS - 1) for index in range(_CURVE_POINTS)]
    return [(size, float(curve.probability(math.log(size)))) for size in sizes]
