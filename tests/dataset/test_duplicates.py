"""Copies of an image, and how far their masks agree."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexunet.core.config.load import load_config
from flexunet.dataset.ingest import ingest
from flexunet.dataset.synthetic import write_surfaces

CONFIG = load_config("demo")
COLORS = [c.color for c in CONFIG.classes]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_surfaces(tmp_path / "source", 30, 40, COLORS, 9)
    return tmp_path / "source"


def copy(source: Path, name: str, changed_pixels: int = 0) -> None:
    for folder in ("images", "masks"):
        shutil.copy(source / folder / "steel-00001.png", source / folder / f"{name}.png")
    mask = np.array(Image.open(source / "masks" / f"{name}.png"))
    flat = mask.reshape(-1, 3)
    flat[:changed_pixels] = np.where((flat[:changed_pixels] == COLORS[3]).all(-1, keepdims=True), COLORS[0], COLORS[3])
    Image.fromarray(mask).save(source / "masks" / f"{name}.png")


def test_no_copies(source: Path, tmp_path: Path) -> None:
    done = ingest(source, tmp_path / "out", CONFIG, check_only=True)
    assert done.manifest["duplicates"] == {"copies": 0, "different_masks": []}


def test_a_true_copy_is_counted(source: Path, tmp_path: Path) -> None:
    copy(source, "twin")
    done = ingest(source, tmp_path / "out", CONFIG, check_only=True)
    assert done.manifest["duplicates"] == {"copies": 1, "different_masks": []}


def test_masks_that_differ_are_reported_with_their_agreement_the_worst_first(source: Path, tmp_path: Path) -> None:
    copy(source, "close", changed_pixels=16)
    copy(source, "far", changed_pixels=400)
    done = ingest(source, tmp_path / "out", CONFIG, check_only=True)
    assert done.manifest["duplicates"] == {
        "copies": 2,
        "different_masks": [
            {"images": ["close", "far"], "agreement": 0.76},
            {"images": ["close", "steel-00001"], "agreement": 0.99},
        ],
    }
