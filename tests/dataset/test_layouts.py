"""Every layout gives the records that the same surfaces give as images/ and masks/; what is wrong is one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import layout_sources as sources
import numpy as np
import pytest

from flexunet.core.config.load import config_from
from flexunet.core.config.whole import Config
from flexunet.dataset.examine import examine, read_content
from flexunet.dataset.layouts.detect import READERS, find_layout
from flexunet.dataset.records import Entry, make_example
from flexunet.dataset.synthetic import generate_surface

SIZE, COUNT = 48, 6


def config_with(**records: Any) -> Config:
    classes = [{"name": n, "color": c.tolist()} for n, c in zip(sources.NAMES, sources.COLORS, strict=True)]
    return config_from({"classes": classes, "records": records}, "test")


CONFIG = config_with()


@pytest.fixture(scope="module")
def surfaces() -> sources.Surfaces:
    found = {f"steel-{index:05d}": generate_surface(5, index, SIZE) for index in range(1, COUNT + 1)}
    # A strip, so that heights and widths cannot be mixed up.
    found["strip"] = tuple(np.ascontiguousarray(part[:20]) for part in found["steel-00002"])
    return found


def records(source: Path, config: Config = CONFIG, **options: Any) -> dict[str, bytes]:
    """Id -> record."""
    layout = find_layout(source, **options)
    assert layout.problems == []
    facts = [examine(pair, config) for pair in layout.pairs]
    return {
        f.pair.id: make_example(Entry(f, "group"), read_content(f, config), config).SerializeToString(
            deterministic=True
        )
        for f in facts
    }


@pytest.fixture(scope="module")
def expected(surfaces: sources.Surfaces, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("expected")
    sources.folders("images/{}.png", "masks/{}.png")(root, surfaces)
    return records(root)


WAYS: dict[str, tuple[str, Callable[[Path, sources.Surfaces], None]]] = {
    "any case": ("folders", sources.folders("Images/{}.png", "MASKS/{}.png")),
    "other names": ("folders", sources.folders("img/{}.png", "label/{}.png")),
    "a suffix": ("folders", sources.folders("images/{}.png", "masks/{}_mask.png")),
    "a prefix": ("folders", sources.folders("images/{}.png", "masks/mask_{}.png")),
    "suffixes on both sides": ("folders", sources.folders("leftImg8bit/{}.png", "gtFine/{}_gtFine_labelIds.png")),
    "masks below images": ("folders", sources.folders("{}.png", "Label/{}_label.PNG")),
    "side by side": ("beside", sources.folders("{}.png", "{}_GT.png")),
    "side by side in images": ("beside", sources.folders("images/{}.png", "images/{}-seg.png")),
    "VOC, CVAT": ("voc", sources.voc),
    "COCO polygons": ("coco", sources.coco(sources.as_polygons)),
    "COCO packed run lengths": ("coco", sources.coco(sources.as_packed)),
    "COCO plain run lengths": ("coco", sources.coco(sources.as_counts)),
    "labelme": ("labelme", sources.labelme("{}.png", "{}.json")),
    "labelme in its folder": ("labelme", sources.labelme("images/{}.png", "annotations/{}.json")),
    "YOLO": ("yolo", sources.yolo),
    "Severstal": ("severstal", sources.severstal),
    "a folder per class": ("class-masks", sources.class_masks("masks/{1}/{0}.png")),
    "a folder per image": ("class-masks", sources.class_masks("masks/{0}/{1}.png")),
    "a suffix per class": ("class-masks", sources.class_masks("masks/{0}_{1}.png")),
    "one-hot": ("npz", sources.npz(sources.one_hot)),
    "one-hot, layers first": ("npz", sources.npz(lambda ids: sources.one_hot(ids).transpose(2, 0, 1) > 0, key="x")),
    "ids in archives": ("npz", sources.npz(lambda ids: ids.astype(np.int64))),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_every_layout_gives_the_same_records(
    surfaces: sources.Surfaces, expected: dict[str, bytes], tmp_path: Path, way: str
) -> None:
    name, write = WAYS[way]
    write(tmp_path, surfaces)
    layout = find_layout(tmp_path)
    assert layout.name == name and layout.description.startswith(f"layout {name}: images in")
    assert records(tmp_path) == expected
    assert records(tmp_path, layout=name) == expected


def test_every_layout_is_tried() -> None:
    assert {name for name, _ in WAYS.values()} | {"mvtec"} == set(READERS)
