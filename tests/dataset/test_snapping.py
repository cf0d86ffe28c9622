"""Nearest colours: rims that a tool smoothed pass, a palette that is wrong does not, and everything is counted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import encoded
from PIL import Image

from flexunet.core.config.load import config_from
from flexunet.core.config.whole import Config
from flexunet.core.pictures import Refused
from flexunet.dataset.ingest import ingest
from flexunet.dataset.masks import read_mask
from flexunet.dataset.synthetic import write_surfaces

NAMES = ("background", "inclusion", "patches", "scratches")
COLORS = ([0, 0, 0], [0, 0, 255], [0, 255, 0], [255, 0, 0])


def config(**records: Any) -> Config:
    classes = [{"name": name, "color": color} for name, color in zip(NAMES, COLORS, strict=True)]
    return config_from({"classes": classes, "records": {"mask_colors": "nearest", **records}}, "test")


def squares() -> NDArray[np.uint8]:
    """Class ids [256, 256]: three squares on the background, two of which touch."""
    class_ids = np.zeros((256, 256), np.uint8)
    class_ids[32:112, 32:112], class_ids[32:112, 112:192], class_ids[144:224, 80:176] = 1, 2, 3
    return class_ids


def smoothed(scale: float) -> bytes:
    """A mask in colours that was made smaller and larger again, as an editor does it."""
    mask = Image.fromarray(np.array(COLORS, np.uint8)[squares()])
    other = mask.resize((round(256 * scale), round(256 * scale)), Image.Resampling.BILINEAR)
    return encoded(np.asarray(other.resize((256, 256), Image.Resampling.BILINEAR)), "PNG")


def refusal(file: bytes, settings: Config) -> str:
    with pytest.raises(Refused) as refused:
        read_mask(file, settings)
    return str(refused.value.words)


@pytest.mark.parametrize("scale", [0.75, 1.5])
def test_smoothed_rims_pass_and_are_counted(scale: float) -> None:
    mask = read_mask(smoothed(scale), config())
    assert (mask.class_ids != squares()).mean() < 0.03
    assert mask.snapped is not None and 0 < mask.snapped.sum() < 0.1 * 256 * 256
    assert not mask.is_served


def test_exact_masks_are_as_they_were() -> None:
    exact = encoded(np.array(COLORS, np.uint8)[squares()], "PNG")
    mask = read_mask(exact, config())
    assert (mask.snapped, mask.is_served) == (None, True)
    np.testing.assert_array_equal(mask.class_ids, squares())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ((200, 0, 0), "RGB (200, 0, 0) fills areas of the mask"),
        ((90, 90, 90), "RGB (90, 90, 90) fills areas of the mask"),
        ((255, 255, 0), "RGB (255, 255, 0) lies 255 from the nearest class"),
    ],
)
def test_a_wrong_palette_does_not_pass(wrong: tuple[int, int, int], words: str) -> None:
    colors = np.array([*COLORS[:3], wrong], np.uint8)
    assert words in refusal(encoded(colors[squares()], "PNG"), config())


def test_colors_that_are_rounded_pass() -> None:
    colors = np.array([(1, 0, 2), (3, 0, 251), (0, 250, 0), (255, 4, 0)], np.uint8)
    mask = read_mask(encoded(colors[squares()], "PNG"), config(nearest_share=1.0))
    np.testing.assert_array_equal(mask.class_ids, squares())
    assert mask.snapped is not None and mask.snapped.tolist() == np.bincount(squares().ravel()).tolist()


def test_bounds_are_kept_and_named() -> None:
    assert "records.nearest_share" in refusal(smoothed(0.75), config(nearest_share=0.01))
    assert "records.nearest_distance" in refusal(smoothed(0.75), config(nearest_distance=20))


def test_exact_tells_of_the_key_where_it_would_help() -> None:
    words = refusal(smoothed(0.75), config(mask_colors="exact"))
    assert 'records.mask_colors = "nearest" would take these' in words
    colors = np.array([*COLORS[:3], (200, 0, 0)], np.uint8)
    assert "nearest" not in refusal(encoded(colors[squares()], "PNG"), config(mask_colors="exact")).split("(nearest")[1]


def test_grey_masks_of_colors() -> None:
    classes = [{"name": "background", "color": [0, 0, 0]}, {"name": "defect", "color": [255, 255, 255]}]
    records = {"mask_colors": "nearest", "mask_values": "colors"}
    settings = config_from({"classes": classes, "records": records}, "test")
    grey = Image.fromarray((squares() > 0).astype(np.uint8) * 255).resize((128, 128), Image.Resampling.BILINEAR)
    mask = read_mask(encoded(np.asarray(grey.resize((256, 256), Image.Resampling.BILINEAR)), "PNG"), settings)
    assert (mask.class_ids != (squares() > 0)).mean() < 0.05


def test_an_ingest_tells_how_many_pixels_and_the_worst_images(tmp_path: Path) -> None:
    write_surfaces(tmp_path / "source", 30, 48, [tuple(color) for color in COLORS], seed=5)
    for number in (1, 2):
        path = tmp_path / f"source/masks/steel-{number:05d}.png"
        pixels = np.array(Image.open(path))
        pixels[0, : 9 * number] = (110, 0, 0)
        Image.fromarray(pixels).save(path)
    done = ingest(tmp_path / "source", tmp_path / "out", config(), check_only=True)
    (note,) = [note for note in done.manifest["notes"] if "no class's colour" in note]
    assert note.startswith(
        "27 pixels of 2 masks had no class's colour and count as the nearest's (background 27), most"
    )
    assert "steel-00002 (0.78%), steel-00001 (0.39%)" in note
