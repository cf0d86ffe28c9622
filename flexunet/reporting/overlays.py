"""Masks over a photograph: fills with a pattern, so that classes differ by more than their hue, and outlines.

An outline is a dark and a light line side by side: one of them has a contrast of 4.58:1 at least against whatever grey
it lies on, and no fill hides it. That of a prediction is dashed, which tells it from the truth's where both are drawn.
"""

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexunet.core.features import BACKGROUND_ID, IGNORE_ID

DARK: Final = (0, 0, 0)
LIGHT: Final = (255, 255, 255)
_DARK_ID, _LIGHT_ID = 1, 2
# Pixels of a picture: the period of patterns, and a dash with its gap.
_PERIOD: Final = 6
_DASH: Final = 5
# By class id less one, again and again. CSS has the same for the legend, see `pattern_css`.
PATTERNS: Final = ("solid", "rising", "falling", "rows", "columns", "checks")


def pattern_of(class_id: int) -> str:
    """Of PATTERNS."""
    return PATTERNS[(class_id - 1) % len(PATTERNS)]


def pattern_css(class_id: int, color: str) -> str:
    """The pattern as a CSS background in this colour."""
    stripes = {"rising": "135deg", "falling": "45deg", "rows": "0deg", "columns": "90deg"}
    pattern = pattern_of(class_id)
    if pattern in stripes:
        return f"repeating-linear-gradient({stripes[pattern]}, {color} 0 3px, transparent 3px 5px)"
    if pattern == "checks":
        return f"repeating-conic-gradient({color} 0 25%, transparent 0 50%) 0 0 / 6px 6px"
    return color


def fill_png(ids: NDArray[np.uint8], colors: NDArray[np.uint8]) -> bytes:
    """Ids uint8 `[h, w]` at the size of the picture, colours uint8 `[256, 3]` -> a PNG; background is transparent."""
    y, x = np.indices(ids.shape)
    half = _PERIOD // 2
    kept = {
        "solid": np.ones(ids.shape, bool),
        "rising": (x + y) % _PERIOD < half,
        "falling": (x - y) % _PERIOD < half,
        "rows": y % _PERIOD < half,
        "columns": x % _PERIOD < half,
        "checks": (x // half + y // half) % 2 == 0,
    }
    shown = ids.copy()
    for class_id in np.unique(ids).tolist():
        if class_id not in (BACKGROUND_ID, IGNORE_ID):
            shown[(ids == class_id) & ~kept[pattern_of(class_id)]] = BACKGROUND_ID
    return _png(shown, colors)


def outline_png(ids: NDArray[np.uint8], dashed: bool) -> bytes:
    """The outlines of the regions of ids uint8 `[h, w]` as a PNG of dark and light lines, all else transparent."""
    lines = outline(ids)
    if dashed:
        y, x = np.indices(ids.shape)
        lines = np.where((x + y) % (2 * _DASH) < _DASH, lines, BACKGROUND_ID).astype(np.uint8)
    colors = np.zeros((256, 3), np.uint8)
    colors[[_DARK_ID, _LIGHT_ID]] = DARK, LIGHT
    return _png(lines, colors)


def outline(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 `[h, w]`: 1 where the dark line is, just outside of a region or between two; 2 the light one around it."""
    regions = np.where(ids == IGNORE_ID, BACKGROUND_ID, ids)
    dark = _highest_neighbour(regions) > regions
    inside = (regions != BACKGROUND_ID) | dark
    light = (_highest_neighbour(inside.astype(np.uint8)) > 0) & ~inside
    # At the border of the picture there is no outside: the region's own rim takes the lines.
    rim = np.zeros(ids.shape, bool)
    rim[[0, -1], :] = rim[:, [0, -1]] = True
    dark |= rim & (regions != BACKGROUND_ID)
    return np.where(dark, _DARK_ID, np.where(light, _LIGHT_ID, BACKGROUND_ID)).astype(np.uint8)


def _highest_neighbour(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The highest id of a pixel and its eight neighbours."""
    padded = np.pad(ids, 1)
    height, width = ids.shape
    return np.max([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)


def _png(ids: NDArray[np.uint8], colors: NDArray[np.uint8]) -> bytes:
    """A PNG with a palette whose id 0 is transparent."""
    picture = Image.fromarray(ids)
    picture.putpalette(colors.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=BACKGROUND_ID)
    return buffer.getvalue()
