"""What vanishes at the model's size: counted, warned of, refused; and what the gate would refuse after a training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flexunet.core.config.load import config_from
from flexunet.core.config.whole import Config
from flexunet.core.problems import DataError
from flexunet.dataset.ingest import ingest
from flexunet.dataset.losses import losses_of, sizes_that_keep

NAME = "Kratzer (ü) + Riß"
CLASSES = [{"name": "background", "color": [0, 0, 0]}, {"name": NAME, "color": [255, 0, 0]}]
COUNT, HEIGHT, WIDTH = 66, 192, 400


def config(height: int = 96, width: int = 192, fit: str = "stretch", **sections: Any) -> Config:
    image = {"height": height, "width": width, "fit": fit}
    return config_from({"classes": CLASSES, "image": image, **sections}, "test")


@pytest.fixture(scope="module")
def scratched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """198 scratches of one pixel's height, on rows that half of the height leaves out."""
    folder, generator = tmp_path_factory.mktemp("scratched"), np.random.default_rng(0)
    for role in ("images", "masks"):
        (folder / role).mkdir()
    for index in range(COUNT):
        image = generator.integers(80, 140, (HEIGHT, WIDTH), dtype=np.uint8)
        ids = np.zeros((HEIGHT, WIDTH), np.uint8)
        for start in (10, 70, 130):
            row, column, length = (
                start + 2 * generator.integers(25),
                generator.integers(200),
                generator.integers(50, 200),
            )
            ids[row, column : column + length], image[row, column : column + length] = 1, 250
        Image.fromarray(image).save(folder / f"images/{index:03}.png")
        Image.fromarray(ids).save(folder / f"masks/{index:03}.png")
    return folder


def warnings(source: Path, out: Path, settings: Config) -> list[str]:
    return ingest(source, out, settings, check_only=True).manifest["warnings"]


def test_a_class_that_vanishes_is_refused_and_may_be_accepted(scratched: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        ingest(scratched, tmp_path / "out", config())
    [line] = str(caught.value).splitlines()
    assert line.startswith(f"{scratched}: 198 of 198 regions of {NAME} have no pixel left at the model's size (train ")
    assert 'image.fit = "tile" keeps them, or image.height = 192, image.width = 400; expected less than 50%' in line
    assert line.endswith("or go on with --accept-losses") and not (tmp_path / "out").exists()
    ingest(scratched, tmp_path / "out", config(), accept_losses=True)
    manifest = json.loads((tmp_path / "out/dataset.json").read_text())
    [warning] = manifest["warnings"]
    assert warning.startswith(f"198 of 198 regions of {NAME}")
    assert manifest["model_size"] == {"height": 96, "width": 192, "fit": "stretch"}
    for split in manifest["splits"].values():
        assert split["regions"] == split["regions_lost"] == {NAME: 3 * split["images"]}
        assert split["pixels"][NAME] > 0 and split["pixels_at_model_size"][NAME] == 0
    assert "Regions without a pixel at the model" in (tmp_path / "out/dataset.html").read_text()


@pytest.mark.parametrize("kept", [config(192, 400), config(fit="tile"), config(256, 512, "pad")])
def test_what_the_words_name_keeps_all(kept: Config, scratched: Path, tmp_path: Path) -> None:
    assert warnings(scratched, tmp_path, kept) == []


def test_a_part_is_a_warning(scratched: Path, tmp_path: Path) -> None:
    [warning] = warnings(scratched, tmp_path, config(height=160))
    lost, _, whole, *_ = warning.split()
    assert whole == "198" and 0.05 <= int(lost) / 198 < 0.5


def test_a_region_is_lost_if_none_of_its_pixels_is_left() -> None:
    ids = np.zeros((32, 32), np.uint8)
    # Of every second row and column the odd ones are left: half of the diagonal, nothing of a single even pixel.
    ids[np.arange(16), np.arange(16)] = 1
    ids[20, 20] = 1
    ids[25:28, 25:28] = 1
    found = losses_of(ids, config(16, 16).image, 2)
    assert (found.regions.tolist(), found.lost.tolist(), found.pixels.tolist()) == ([0, 3], [0, 1], [244, 12])


def test_sizes_fit_the_levels_of_the_model() -> None:
    assert sizes_that_keep([(100, 30), (20, 201)], config()).endswith("image.height = 112, image.width = 208")
    assert sizes_that_keep([(100, 9000)], config()) == 'image.fit = "tile" keeps them'


def test_what_the_gate_will_refuse_is_said_before_the_training(scratched: Path, tmp_path: Path) -> None:
    [words] = warnings(scratched, tmp_path, config(192, 400, gate={"max_false_alarms": 0.1}))
    assert "gate.max_false_alarms is set" in words and "every image of test shows a defect" in words
