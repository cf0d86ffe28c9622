"""Inputs that people really had and that once trained or were served wrongly without a word, each with the right value.

They are not part of the repository: their kinds are in the other tests.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from steel import CLASSES

from flexunet.core.config.data import ImageConfig
from flexunet.core.config.load import config_from, load_config
from flexunet.core.config.whole import Config
from flexunet.core.pictures import Refused, open_image
from flexunet.core.problems import DataError
from flexunet.core.results.dataset import Summary
from flexunet.dataset.ingest import ingest
from flexunet.dataset.masks import read_mask
from flexunet.serving.predict import image_files

CASES = Path(__file__).resolve().parents[2].parent / "shared/cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not part of the repository")


def checked(case: str, config: Config, source: str = "src") -> Summary:
    return ingest(CASES / case / source, CASES / case / "nowhere", config, check_only=True).manifest


def refusals(case: str, config: Config, source: str = "src") -> list[str]:
    with pytest.raises(DataError) as caught:
        checked(case, config, source)
    return str(caught.value).splitlines()


@pytest.fixture(scope="module")
def served() -> Any:
    """What the graph of a served model decodes of a file, uint8 `[h, w, 3]`."""
    # TensorFlow, which the other cases do without.
    import tensorflow as tf

    from transform_module.images import decode_rows

    settings = ImageConfig(height=256, width=256, fit="tile", tile_overlap=0)

    def decoded(file: Path) -> Any:
        tiles, sizes, problems = decode_rows(tf.constant([file.read_bytes()]), settings)
        assert problems.numpy().tolist() == [b""]
        height, width = sizes[0].numpy()
        return tiles[0, 0, :height, :width].numpy()

    return decoded


def test_01_photos_that_exif_turns_are_served_upright(served: Any) -> None:
    photos = sorted((CASES / "01-exif-serving/asis").iterdir())
    assert len(photos) == 6
    for photo in photos:
        upright = np.asarray(Image.open(CASES / f"01-exif-serving/upright/{photo.stem}.png").convert("RGB"), int)
        assert np.abs(served(photo) - upright).mean() < 1


def test_03_palettes_of_bmp_are_colours(served: Any) -> None:
    case = CASES / "03-bmp-indexed-serving"
    for name in ("indexed.bmp", "grey7.bmp", "grey8inv.bmp", "pal8.bmp"):
        np.testing.assert_array_equal(served(case / name), np.asarray(Image.open(case / name).convert("RGB")))
    # The picture before its colours were made 256: indices taken for grey levels differed by 60 to 113 in the mean.
    difference = served(case / "indexed.bmp").astype(int) - served(case / "same-as-indexed.png")
    assert np.abs(difference).mean() < 5


@pytest.mark.parametrize(
    ("source", "words"),
    [("float01", "a picture of floats"), ("int32", "large or signed"), ("u16-12bit", "16 bits without")],
)
def test_04_depths_without_a_range_are_refused(source: str, words: str) -> None:
    lines = refusals("04-depth", load_config(CASES / "04-depth/c.toml"), f"{source}/src")
    assert len(lines) == 40 and all(words in line and "image.value_range = [black, white]" in line for line in lines)


@pytest.mark.parametrize("name", ["cam12bit.png", "i16.tif", "u32.tif"])
def test_04_single_files_without_a_range_are_refused(name: str) -> None:
    file = CASES / "04-depth" / name
    with pytest.raises(Refused, match=r"set image\.value_range"):
        open_image(file.read_bytes(), load_config(CASES / "04-depth/c.toml").image)


def test_05_grey_255_is_the_class_of_that_colour_or_must_be_decided() -> None:
    case = CASES / "05-grey-255"
    splits = checked("05-grey-255", load_config(case / "binary-c.toml"), "binary/src")["splits"]
    assert all(split["pixels"]["defect"] > 0 for split in splits.values())
    for config, source in (("binary-ignore-c.toml", "binary/src"), ("with-ignore-c.toml", "with-ignore/src")):
        lines = refusals("05-grey-255", load_config(case / config), source)
        assert all("grey 255 is unlabelled as an id and" in line and "records.mask_values" in line for line in lines)


def test_06_what_was_erased_over_a_class_is_refused() -> None:
    lines = refusals("06-rgba-erased", load_config(CASES / "06-rgba-erased/c.toml"))
    assert lines and all("pixels that are transparent over a class" in line for line in lines)


def test_08_a_lossless_jpeg_is_converted_and_said() -> None:
    read = checked("08-lossless-jpeg", load_config(CASES / "08-lossless-jpeg/c.toml"))["read"]
    assert read["converted"] == {"lossless JPEG": 1}


def test_11_predict_finds_what_ingest_finds(tmp_path: Path) -> None:
    folder = CASES / "11-predict-skips-and-takes/in"
    found, left_out = image_files([folder], tmp_path)
    names = {str(file.relative_to(folder)) for file in found}
    assert {"tif1.tif", "tif2.TIFF", "sub/ok.png"} <= names
    assert not [name for name in names if "._" in name or ".ipynb_checkpoints" in name]
    assert {entry.why for entry in left_out} >= {"hidden", "in hidden folders"}


@pytest.mark.parametrize("name", ["mask.png", "mask-palette.png"])
def test_20_a_void_border_is_told_of_its_key(name: str) -> None:
    mask = CASES / "20-void-255" / name
    with pytest.raises(Refused, match=r"records\.ignore_color"):
        read_mask(mask.read_bytes(), config_from({"classes": CLASSES}, "test"))
