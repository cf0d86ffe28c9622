"""Outlines of any mask, drawn again by other code, are the mask; documents are read back to the pixel."""

import json
from pathlib import Path

import layout_sources as sources
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from flexunet.core.config.load import load_config
from flexunet.core.outlines import coco_annotations, labelme_document, outlines
from flexunet.dataset.examine import read_class_ids
from flexunet.dataset.layouts.detect import find_layout


def drawn(points: list[tuple[int, int]], height: int, width: int) -> np.ndarray:
    packed = coco_mask.frPyObjects([np.ravel(points).astype(float).tolist()], height, width)
    return coco_mask.decode(coco_mask.merge(packed)).astype(int)


@pytest.mark.parametrize("share", [0.05, 0.4, 0.6, 0.95])
def test_borders_minus_holes_are_the_region(share: float) -> None:
    generator = np.random.default_rng(int(100 * share))
    for _ in range(20):
        height, width = generator.integers(1, 20, 2)
        region = generator.random((height, width)) < share
        found = outlines(region)
        total = sum((np.sign(o.area) * drawn(o.points, height, width) for o in found), np.zeros((height, width), int))
        np.testing.assert_array_equal(total, region)
        assert sum(o.area for o in found) == region.sum()


def test_a_rectangle_has_four_points() -> None:
    region = np.zeros((5, 9), bool)
    region[1:4, 2:8] = True
    ((points, area),) = outlines(region)
    assert sorted(points) == [(2, 1), (2, 4), (8, 1), (8, 4)] and area == 18


def random_mask(seed: int) -> np.ndarray:
    """Classes with holes, islands in them and corners that touch."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 4, (9, 11)).astype(np.uint8)
    return np.kron(coarse, np.ones((3, 2), np.uint8))


@pytest.mark.parametrize("seed", range(3))
def test_documents_are_read_back_to_the_pixel(tmp_path: Path, seed: int) -> None:
    class_ids, names = random_mask(seed), sources.NAMES
    height, width = class_ids.shape
    for kind in ("labelme", "coco"):
        sources.save(tmp_path / kind / "a.png", np.zeros((height, width, 3), np.uint8))
    (tmp_path / "labelme/a.json").write_text(json.dumps(labelme_document("a.png", class_ids, names)))
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": width, "height": height}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names) if number],
        "annotations": coco_annotations(1, 1, class_ids),
    }
    (tmp_path / "coco/a.json").write_text(json.dumps(document))
    config = load_config("demo")
    for kind in ("labelme", "coco"):
        (pair,) = find_layout(tmp_path / kind).pairs
        np.testing.assert_array_equal(read_class_ids(pair, Image.open(pair.image).size, config), class_ids)
