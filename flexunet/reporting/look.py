"""The look that all pages share: templates, styles, how numbers are written, pictures inside the page."""

import base64
import functools
import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from flexunet.reporting import templates

# Of a template, by name.
Variables: TypeAlias = Mapping[str, object]


@functools.cache
def environment(*packages: str) -> Environment:
    """Templates of `packages`, then the shared ones; everything is escaped, a missing variable raises.

    Made once: it keeps its templates compiled, which takes longer than to fill them.
    """
    shared = PackageLoader(templates.__name__, "")
    made = Environment(
        loader=ChoiceLoader([*map(PackageLoader, packages), shared]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(percent=percent, number="{:,}".format, score=score, signed=signed, seconds=seconds)
    made.filters.update(rgb=rgb, ink=ink)
    return made


def percent(share: float) -> str:
    """Two significant digits below 10 %, so that rare classes do not read as zero."""
    if share == 0:
        return "0 %"
    hundredths = 100 * share
    if hundredths >= 1:
        return f"{hundredths:.1f} %"
    return f"{hundredths:.2g} %" if hundredths >= 0.001 else "< 0.001 %"


def score(value: float | None) -> str:
    """Four digits; a dash for what is undefined."""
    return "–" if value is None else f"{value:.4f}"


def signed(value: float | None) -> str:
    """A difference, with a minus sign that is as wide as a plus."""
    return "–" if value is None else f"{value:+.4f}".replace("-", "−")


def seconds(value: float) -> str:
    """A duration in the unit that a person would use."""
    if value < 1:
        return f"{1000 * value:.0f} ms"
    if value < 100:
        return f"{value:.1f} s"
    minutes = round(value / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def rgb(color: Sequence[int]) -> str:
    """A colour for CSS."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def ink(color: Sequence[int]) -> str:
    """Black or white, whichever has the higher contrast on a colour (WCAG 2, relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (channel / 255 for channel in color)]
    luminance = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "#000000" if luminance > 0.179 else "#ffffff"


def data_uri(content: bytes, kind: str) -> str:
    """A picture inside the page; `kind` as in `image/<kind>`."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, at most so many."""
    span = high - low
    if span <= 0:
        return [low]
    step = 10.0 ** math.floor(math.log10(span / most))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10, 20) if span / (factor * step) <= most - 1)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]
