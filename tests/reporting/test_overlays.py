"""Overlays are seen on any surface, and classes differ by more than their hue."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from flexunet.reporting import overlays
from flexunet.serving.outputs import overlay


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def luminance(color: np.ndarray) -> np.ndarray:
    """WCAG 2.2, of RGB 0 to 255."""
    parts = color / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


def contrast(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    one, other = luminance(first) + 0.05, luminance(second) + 0.05
    return np.maximum(one / other, other / one)


def regions() -> np.ndarray:
    """A block, a line of one pixel, one at the border, and two classes that touch."""
    ids = np.zeros((64, 64), np.uint8)
    ids[10:20, 10:20] = 1
    ids[30, 5:60] = 2
    ids[50:64, 0:12] = 3
    ids[40:50, 40:50] = 1
    ids[40:50, 50:58] = 2
    ids[60, 60] = 255
    return ids


@pytest.mark.parametrize("dashed", [False, True], ids=["truth", "prediction"])
def test_every_border_is_seen_on_every_grey(dashed: bool) -> None:
    ids = overlays.enlarged(regions(), 512)
    lines = pixels(overlays.outline_png(ids, dashed))
    labelled = np.where(ids == 255, 0, ids)
    border = (labelled > 0) & (ndimage.minimum_filter(labelled, 3) != labelled)
    # Two lines of three pixels; a dash and its gap are 24 pixels along a diagonal.
    reach = 37 if dashed else 13
    for grey in range(256):
        seen = (lines[..., 3] > 0) & (contrast(lines[..., :3], np.full(3, grey)) >= 3)
        assert ndimage.maximum_filter(seen, reach)[border].all(), grey


def test_a_border_in_an_overlay_of_predict_is_seen_on_every_grey() -> None:
    """Blue at 50 % on grey 70 has a contrast of 1.3:1."""
    ids = np.zeros((24, 256), np.uint8)
    ids[8:16] = 1
    image = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (24, 1)))
    mask_rgb = np.array([[0, 0, 0], [0, 0, 255]], np.uint8)[ids]
    drawn = np.asarray(overlay(image, mask_rgb, ids))
    assert drawn[11, 4:-4, 2].min() >= 127 and (drawn[0] == np.asarray(image)[0][:, None]).all()
    for rows in (slice(5, 8), slice(16, 19)):
        seen = contrast(drawn[rows].astype(float), np.arange(256.0)[:, None].repeat(3, 1))
        assert (seen.max(axis=0) >= 3).all()


def test_a_rim_is_black_or_white_by_what_it_lies_on() -> None:
    greys = np.tile(np.arange(256.0), (16, 1))
    rim = overlays.set_off(greys)[..., None].repeat(3, -1).astype(float)
    assert (contrast(rim, greys[..., None].repeat(3, -1)) >= 4).all()


def test_both_lines_survive_at_half_the_size() -> None:
    """As a browser shows it, every other pixel or every third."""
    ids = overlays.enlarged(regions(), 512)
    for step in (2, 3):
        lines = overlays.outline(ids)[::step, ::step]
        near = [ndimage.maximum_filter(lines == line, 7) for line in (1, 2)]
        border = (ids > 0) & (ids < 255) & (ndimage.minimum_filter(ids, 3) != ids)
        assert all(seen[border[::step, ::step]].all() for seen in near)


def test_an_outline_leaves_what_is_inside_and_what_nobody_labelled() -> None:
    ids = overlays.enlarged(regions(), 512)
    outline = overlays.outline(ids)
    assert not outline[80:150, 80:150].any()
    assert not outline[478:, 478:].any()


def test_patterns_tell_classes_apart_without_colour() -> None:
    ids = np.ones((48, 48), np.uint8)
    grey = np.full((256, 3), 90, np.uint8)
    drawn = {class_id: pixels(overlays.fill_png(ids * class_id, grey))[..., 3] > 0 for class_id in range(1, 7)}
    assert len({mask.tobytes() for mask in drawn.values()}) == 6
    assert drawn[1].all() and all(0.4 < drawn[class_id].mean() < 0.6 for class_id in range(2, 7))
    assert (pixels(overlays.fill_png(ids * 7, grey))[..., 3] > 0).all()
    assert len({overlays.pattern_css(class_id, "#123456") for class_id in range(1, 7)}) == 6


def test_a_dashed_outline_over_a_solid_one_shows_both() -> None:
    ids = overlays.enlarged(regions(), 512)
    solid, dashed = (pixels(overlays.outline_png(ids, dashed)) for dashed in (False, True))
    over = dashed[..., 3] > 0
    assert 0.4 < over.sum() / (solid[..., 3] > 0).sum() < 0.6
    assert (contrast(solid[over][:, :3], dashed[over][:, :3]) >= 3).all()
