"""Masks over a photograph: fills with a pattern, so that classes differ by more than their hue, and outlines.

An outline is a dark and a light line side by side: one of them has a contrast of 4.58:1 at least against whatever grey
it lies on, and no fill hides it. That of a prediction is dashed, which tells it from the truth's where both are drawn.
"""

import io
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexunet.core.features import BACKGROUND_ID, IGNORE_ID

DARK: Final = (0, 0, 0)
LIGHT: Final = (255, 255, 255)
_DARK_ID, _LIGHT_ID = 1, 2
# Pixels of a picture: the period of patterns, and a dash with its gap.
_PERIOD: Final = 8
_DASH: Final = 12
# A line is a pixel wide for so many pixels of the picture's longer side.
_SIDE_OF_A_LINE: Final = 200
# White and black have the same contrast to it, 4.6:1.
_MIDDLE_GREY: Final = 117.5
# Pixels around a pixel: a rim on textured steel does not flicker.
_SURROUNDINGS: Final = 9
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


def enlarged(ids: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Ids uint8 `[h, w]` as many times as large as fits into `side`: lines over small images stay thin."""
    factor = max(1, side // max(ids.shape))
    return ids.repeat(factor, axis=0).repeat(factor, axis=1)


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
    # The other way round, so that dashes are seen on a solid outline too.
    colors[[_DARK_ID, _LIGHT_ID]] = (LIGHT, DARK) if dashed else (DARK, LIGHT)
    return _png(lines, colors)


def outlined(pixels: NDArray[np.uint8], ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB uint8 `[h, w, 3]` with the outlines of the regions of ids uint8 `[h, w]` drawn into it."""
    lines, drawn = outline(ids), pixels.copy()
    drawn[lines == _DARK_ID], drawn[lines == _LIGHT_ID] = DARK, LIGHT
    return drawn


def set_off(surface: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Black or white, uint8 `[h, w]`: what has the higher contrast to a pixel's surroundings, 4.5:1 on plain grey.

    Args:
      surface: grey levels `[h, w]`, 0 to 255.
    """
    from scipy import ndimage

    around: Any = ndimage.uniform_filter(surface, _SURROUNDINGS)
    return np.where(around < _MIDDLE_GREY, np.uint8(255), np.uint8(0))


def outline(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 `[h, w]`: 1 where the dark line is, just outside of a region, 2 where the light one is, behind it.

    Between two regions both lie in the one of the lower id, at the border of the picture in the region itself. Lines
    are so wide that none is lost where a page shows the picture at half its size.
    """
    width = max(1, round(max(ids.shape) / _SIDE_OF_A_LINE))
    regions = np.where(ids == IGNORE_ID, BACKGROUND_ID, ids)
    is_region = regions != BACKGROUND_ID
    rim = np.ones(ids.shape, bool)
    rim[width:-width, width:-width] = False
    dark = (_highest_near(regions, width) > regions) | (rim & is_region)
    behind = (_highest_near(dark & ~is_region, width) > 0) & ~is_region
    inside = (_highest_near(np.where(dark, regions, BACKGROUND_ID), width) == regions) & is_region
    return np.where(dark, _DARK_ID, np.where(behind | inside, _LIGHT_ID, BACKGROUND_ID)).astype(np.uint8)


def _highest_near(pixels: NDArray[Any], reach: int) -> NDArray[np.uint8]:
    """The highest value within so many pixels, diagonals included."""
    from scipy import ndimage

    found: Any = ndimage.maximum_filter(pixels.astype(np.uint8), size=2 * reach + 1, mode="constant")
    return found


def _png(ids: NDArray[np.uint8], colors: NDArray[np.uint8]) -> bytes:
    """A PNG with a palette whose id 0 is transparent."""
    picture = Image.fromarray(ids)
    picture.putpalette(colors.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=BACKGROUND_ID)
    return buffer.getvalue()
