"""Where lines, points and ticks of a chart go; templates/plots.html.j2 draws them as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from flexunet.core.results.metrics import ReliabilityBin
from flexunet.reporting.look import ticks

# The drawing area of a line chart and of a reliability diagram, in units of their viewBox.
_LEFT: Final = 44.0
_RIGHT: Final = 348.0
_TOP: Final = 12.0
_BOTTOM: Final = 172.0
# Axes of whole numbers.
_COUNTED: Final = ("epoch", "trial")


@dataclass(frozen=True)
class Histogram:
    """Counts between edges."""

    title: str
    unit: str
    edges: list[str]
    counts: list[int]
    color: str = "#64748b"
    labelled_every: int = 1


@dataclass(frozen=True)
class Series:
    """One line of a chart: y by x; None leaves a gap. Dashes tell two lines apart where colours do not.

    `dots`: points alone, without a line; a line without a name is not in the legend.
    """

    name: str
    color: str
    points: Sequence[tuple[float, float | None]]
    dashed: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Tick:
    """A mark on an axis and its words."""

    at: float
    words: str


@dataclass(frozen=True)
class LineChart:
    """Ready to be drawn: paths and ticks in units of the viewBox."""

    title: str
    x_title: str
    words: str
    paths: list[tuple[Series, str]]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    marked_x: float | None
    marked_y: float
    marked_words: str


@dataclass(frozen=True)
class Bar:
    """A bin of a reliability diagram: where it stands, how high, and the share of the pixels in it."""

    x: float
    y: float
    radius: float
    confidence: float
    accuracy: float
    share: float


def line_chart(
    title: str,
    x_title: str,
    series: Sequence[Series],
    marked: float | None = None,
    marked_words: str = "",
    y_range: tuple[float, float] | None = None,
) -> LineChart:
    """The y axis is `y_range`, or begins at 0 where that wastes less than half of it; epochs and trials are counted."""
    drawn = [[(x, y) for x, y in line.points if y is not None and math.isfinite(y)] for line in series]
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in drawn for _, y in line] or [0.0, 1.0]
    low, high = min(ys), max(ys)
    low = 0.0 if 0 <= low < 0.5 * high else low
    high = high if high > low else low + (abs(low) or 1)
    low, high = y_range or (low, high)
    x_axis = _Axis(min(xs), max(xs), _LEFT, _RIGHT)
    y_axis = _Axis(low, high, _BOTTOM, _TOP)
    paths = [(line, _path(line, x_axis, y_axis)) for line in series]
    x_ticks = ticks(x_axis.low, x_axis.high, 7)
    return LineChart(
        title,
        x_title,
        "; ".join(_in_words(line, points) for line, points in zip(series, drawn, strict=True) if line.name),
        paths,
        [Tick(x_axis.place(t), f"{t:g}") for t in x_ticks if x_title not in _COUNTED or t == int(t)],
        [Tick(y_axis.place(t), f"{t:g}") for t in ticks(low, high, 6)],
        None if marked is None else x_axis.place(marked),
        # Where the lines end up is where the words must not be.
        _BOTTOM - 4 if sum(line[-1][1] for line in drawn if line) > len(drawn) * (low + high) / 2 else _TOP + 8,
        marked_words,
    )


def reliability(bins: Sequence[ReliabilityBin]) -> list[Bar]:
    """From `{pixels, confidence, accuracy}` to points whose area tells how many pixels they stand for."""
    total = sum(row["pixels"] for row in bins)
    x_axis, y_axis = _Axis(0, 1, _LEFT, _LEFT + 160), _Axis(0, 1, _BOTTOM, _TOP)
    return [
        Bar(
            x_axis.place(row["confidence"]),
            y_axis.place(row["accuracy"]),
            2.5 + 9 * math.sqrt(row["pixels"] / total),
            row["confidence"],
            row["accuracy"],
            row["pixels"] / total,
        )
        for row in bins
    ]


@dataclass(frozen=True)
class _Axis:
    """From values to units of the viewBox."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + share * (self.end - self.start), 2)


def _path(line: Series, x_axis: _Axis, y_axis: _Axis) -> str:
    """Pieces between gaps; a single point is a line of no length, which a round cap shows."""
    parts, pen_is_down = [], False
    for x, y in line.points:
        if y is None or not math.isfinite(y):
            pen_is_down = False
            continue
        place = f"{x_axis.place(x)} {y_axis.place(y)}"
        parts.append(f"{'L' if pen_is_down else 'M'}{place}")
        if not pen_is_down:
            parts.append(f"L{place}")
        pen_is_down = not line.dots
    return "".join(parts)


def _in_words(line: Series, points: Sequence[tuple[float, float]]) -> str:
    if not points:
        return f"{line.name}: no value"
    return f"{line.name}: from {points[0][1]:.3g} to {points[-1][1]:.3g}"
