"""Every layout gives the records that the same surfaces give as images/ and masks/; what is wrong is one line."""

import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import layout_sources as sources
import numpy as np
import pytest
from picture_files import exif
from PIL import Image

from flexunet.cli import main
from flexunet.core.config.load import config_from, load_config
from flexunet.core.config.whole import Config
from flexunet.core.errors import UserError
from flexunet.core.finder import find_files
from flexunet.core.problems import Problem
from flexunet.dataset.annotation import BadAnnotation
from flexunet.dataset.examine import Facts, examine, examine_each, read_class_ids, read_content
from flexunet.dataset.layouts.detect import READERS, find_layout
from flexunet.dataset.layouts.interface import Source
from flexunet.dataset.layouts.known import LAYOUTS
from flexunet.dataset.synthetic import generate_surface

CASES = Path(__file__).resolve().parents[2].parent / "shared/cases"
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


def records(source: Path, config: Config = CONFIG, **options: Any) -> dict[str, tuple[Any, ...]]:
    """Id -> all that its record is made of; test_ingest compares the records themselves."""
    layout = find_layout(source, **options)
    assert layout.problems == []
    found = {}
    for pair in layout.pairs:
        facts = examine(pair, config)
        numbers = (facts.height, facts.width, facts.brightness, *facts.pixels.tolist())
        content = read_content(facts, config)
        found[pair.id] = (pair.image.name, facts.image_format, *numbers, content.image, content.mask)
    return found


@pytest.fixture(scope="module")
def expected(surfaces: sources.Surfaces, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, ...]]:
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
    surfaces: sources.Surfaces, expected: dict[str, tuple[Any, ...]], tmp_path: Path, way: str
) -> None:
    name, write = WAYS[way]
    write(tmp_path, surfaces)
    layout = find_layout(tmp_path)
    assert layout.name == name and layout.description.startswith(f"layout {name}: images in")
    assert records(tmp_path) == expected
    assert records(tmp_path, layout=name) == expected


def test_every_layout_is_tried() -> None:
    assert tuple(READERS) == LAYOUTS
    assert {name for name, _ in WAYS.values()} | {"mvtec"} == set(READERS)


# Layouts that need more than other names.


def test_images_and_masks_of_one_name(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    """As the magnetic tile set has them: JPEG images, PNG masks."""
    for stem, (image, class_ids) in surfaces.items():
        for root in ("beside", "apart/images"):
            sources.save(tmp_path / root / f"{stem}.jpg", image, quality=95)
        for root in ("beside", "apart/masks"):
            sources.save(tmp_path / root / f"{stem}.png", sources.COLORS[class_ids])
    assert find_layout(tmp_path / "beside").name == "beside"
    assert records(tmp_path / "beside") == records(tmp_path / "apart")


@pytest.mark.parametrize(
    ("image", "mask"), [("{}_sat.png", "{}_mask.png"), ("line 1/{}/Image.png", "line 1/{}/Mask.png")]
)
def test_images_and_masks_may_both_have_an_ending(
    surfaces: sources.Surfaces, expected: dict[str, tuple[Any, ...]], tmp_path: Path, image: str, mask: str
) -> None:
    """As DeepGlobe has them, and who keeps a folder for each image."""
    sources.folders(image, mask)(tmp_path, surfaces)
    assert find_layout(tmp_path).name == "beside"
    found = records(tmp_path)
    assert {i.removeprefix("line 1/"): row[1:] for i, row in found.items()} == {
        i: row[1:] for i, row in expected.items()
    }
    (tmp_path / mask.format("strip")).unlink()
    (problem,) = find_layout(tmp_path).problems
    assert "image without a mask" in problem.what
    (tmp_path / image.format("steel-00001")).unlink()
    assert find_layout(tmp_path).problems and not find_layout(tmp_path).pairs


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("train/{}.png", "train_masks/{}_mask.png"),
        ("img_dir/train/{}.png", "ann_dir/train/{}.png"),
        ("Train/Images/{}.png", "Train/Annotations/{}.png"),
        ("train/{}.png", "trainannot/{}.png"),
        ("images/train/{}.png", "masks/Train/{}.png"),
        ("TRAIN/img/{}.png", "Train/Ground truth/{}.png"),
        ("images/img/train/{}.png", "masks/img/train/{}.png"),
        ("train_frames/{}.png", "train_masks/{}.png"),
        ("train/rgb/{}.png", "train/msk/{}.png"),
        ("Source Images/train/{}.png", "masks_machine/train/{}.png"),
        ("train/JPEGImages/{}.png", "train/SegmentationClassPNG/{}.png"),
        ("train_images/image/{}.png", "train_masks/mask/{}.png"),
    ],
)
def test_splits_in_names_of_folders(surfaces: sources.Surfaces, tmp_path: Path, image: str, mask: str) -> None:
    sources.folders(image, mask)(tmp_path, surfaces)
    layout = find_layout(tmp_path)
    assert (layout.name, {pair.split for pair in layout.pairs}) == ("folders", {"train"})
    assert [pair.id.casefold() for pair in layout.pairs] == [f"train/{stem}" for stem in sorted(surfaces)]


def test_a_class_may_be_called_as_a_folder_for_images(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    """As the frame of a door: a folder that matches as it is, is no role; nor one of several classes' masks."""
    half = {"frame": dict(list(surfaces.items())[:3]), "door": dict(list(surfaces.items())[3:])}
    for part, some in half.items():
        sources.folders(f"{part}/{{}}.png", f"masks/{part}/{{}}.png")(tmp_path / "parts", some)
    layout = find_layout(tmp_path / "parts")
    expected = {f"{part}/{stem}" for part, some in half.items() for stem in some}
    assert (layout.problems, {pair.id for pair in layout.pairs}) == ([], expected)
    for name in ("frame", "image"):
        root = tmp_path / name
        sources.images(root, surfaces)
        for class_name in (name, "glass"):
            for stem, (_, class_ids) in surfaces.items():
                sources.save(root / f"masks/{class_name}/{stem}.png", np.uint8(255) * (class_ids == 1))
        layout = find_layout(root)
        assert (layout.name, layout.problems, len(layout.pairs)) == ("class-masks", [], len(surfaces))


def test_mvtec(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    """One folder a defect; `good` has no masks; its own splits are of another task."""
    for number, (stem, (image, class_ids)) in enumerate(surfaces.items()):
        defect = sources.NAMES[1 + number % 3]
        class_ids = np.where(class_ids > 0, 1 + number % 3, 0).astype(np.uint8)
        sources.save(tmp_path / f"mvtec/bottle/test/{defect}/{stem}.png", image)
        sources.save(tmp_path / f"mvtec/bottle/ground_truth/{defect}/{stem}_mask.png", np.uint8(255) * (class_ids > 0))
        sources.save(tmp_path / f"apart/images/bottle/test/{defect}/{stem}.png", image)
        sources.save(tmp_path / f"apart/masks/bottle/test/{defect}/{stem}.png", sources.COLORS[class_ids])
        sources.save(tmp_path / f"mvtec/bottle/train/good/{stem}.png", image)
        sources.save(tmp_path / f"apart/images/bottle/train/good/{stem}.png", image)
        sources.save(tmp_path / f"apart/masks/bottle/train/good/{stem}.png", sources.COLORS[0 * class_ids])
    layout = find_layout(tmp_path / "mvtec")
    assert (layout.name, layout.has_splits) == ("mvtec", False)
    assert any("own splits are not used" in note for note in layout.notes)
    assert records(tmp_path / "mvtec") == records(tmp_path / "apart")
    one_class = [{"name": "background", "color": [0, 0, 0]}, {"name": "defect", "color": [255, 255, 255]}]
    facts = [examine(pair, config_from({"classes": one_class}, "test")) for pair in layout.pairs]
    assert sum(f.pixels[1] > 0 for f in facts) == sum((ids > 0).any() for _, ids in surfaces.values())


@pytest.mark.parametrize(("name", "drawn"), [("defect", 2), ("inclusion", 1)])
def test_one_class_is_all_defects_of_mvtec_unless_it_is_one_of_them(tmp_path: Path, name: str, drawn: int) -> None:
    for defect in ("inclusion", "patches"):
        sources.save(tmp_path / f"test/{defect}/0.png", np.zeros((9, 9), np.uint8))
        sources.save(tmp_path / f"ground_truth/{defect}/0_mask.png", np.eye(9, dtype=np.uint8) * 255)
    sources.save(tmp_path / "train/good/0.png", np.zeros((9, 9), np.uint8))
    classes = [{"name": "background", "color": [0, 0, 0]}, {"name": name, "color": [255, 0, 0]}]
    found = [*examine_each(find_layout(tmp_path).pairs, config_from({"classes": classes}, "test"))]
    assert sorted(f.pixels[1] for f in found if isinstance(f, Facts)) == [0, *[9] * drawn]
    assert [f.what for f in found if isinstance(f, Problem)] == ["0_mask.png: names the class 'patches'"] * (2 - drawn)


def test_a_class_that_differs_by_case_from_a_folder_of_mvtec_is_not_all_of_them(tmp_path: Path) -> None:
    for defect in ("Crack", "Hole"):
        sources.save(tmp_path / f"test/{defect}/0.png", np.zeros((9, 9), np.uint8))
        sources.save(tmp_path / f"ground_truth/{defect}/0_mask.png", np.eye(9, dtype=np.uint8) * 255)
    sources.save(tmp_path / "train/good/0.png", np.zeros((9, 9), np.uint8))
    classes = [{"name": "background", "color": [0, 0, 0]}, {"name": "crack", "color": [255, 0, 0]}]
    layout = find_layout(tmp_path)
    found = [*examine_each(layout.pairs, config_from({"classes": classes}, "test"))]
    assert [f.what for f in found if isinstance(f, Problem)] == [
        f"0_mask.png: names the class '{defect}'" for defect in ("Crack", "Hole")
    ]
    assert (
        "where the config has one defect class, called otherwise than Crack, Hole, it is all of these" in layout.notes
    )


def test_two_files_of_one_stem_in_mvtec_are_refused(tmp_path: Path) -> None:
    for name in ("train/good/0.png", "train/good/0.bmp", "test/cut/0.png", "ground_truth/cut/0_mask.png"):
        sources.save(tmp_path / name, np.zeros((9, 9), np.uint8))
    (problem,) = find_layout(tmp_path).problems
    assert "train/good/0.png: lies beside 0.bmp, of the same stem; expected one file" in str(problem)


def test_lists_of_voc_are_splits(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    sources.voc(tmp_path, surfaces)
    (tmp_path / "ImageSets/Segmentation/default.txt").unlink()
    stems = list(surfaces)
    for name, listed in (("train", stems[:4]), ("val", stems[4:6]), ("trainval", stems[:6])):
        (tmp_path / f"ImageSets/Segmentation/{name}.txt").write_text("\n".join(listed))
    (tmp_path / "SegmentationClass" / f"{stems[6]}.png").unlink()
    layout = find_layout(tmp_path)
    assert {pair.id: pair.split for pair in layout.pairs} == {
        **dict.fromkeys(stems[:4], "train"),
        **dict.fromkeys(stems[4:6], "eval"),
    }
    assert {entry.why: entry.files for entry in layout.left_out} == {
        "masks of instances (SegmentationObject), which the masks of classes include": 7,
        "in no list of ImageSets/Segmentation": 1,
    }


@pytest.mark.parametrize(
    "line", ["line 1/{}", "line 1\\{}", "JPEGImages/line 1/{}.png", "{}.png", "{}  1", "./line 1/{}", '"line 1/{}" 1']
)
def test_lists_of_voc_may_name_files(surfaces: sources.Surfaces, tmp_path: Path, line: str) -> None:
    """As tools write them that put images into folders; a list that was not understood would be a split unused."""
    sources.images(tmp_path, surfaces, "JPEGImages/line 1/{}.png")
    sources.color_masks(tmp_path, surfaces, "SegmentationClass/line 1/{}.png")
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    stems = list(surfaces)
    for name, listed in (("train", stems[:4]), ("test", [*stems[4:], "ghost"])):
        text = "\n".join(line.format(stem) for stem in listed) + "\n\n"
        (tmp_path / f"ImageSets/Segmentation/{name}.txt").write_text(text)
    layout = find_layout(tmp_path)
    assert layout.problems == []
    assert {pair.id: pair.split for pair in layout.pairs} == {
        **{f"line 1/{stem}": "train" for stem in stems[:4]},
        **{f"line 1/{stem}": "test" for stem in stems[4:]},
    }
    stray = line.format("ghost")
    assert layout.notes == (f"1 of 4 lines of ImageSets/Segmentation/test.txt are of no image, such as {stray!r}",)


def test_lists_of_voc_may_begin_above_the_source(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    """And a list named after a split that is of no image is refused: its images would be assigned anew."""
    sources.voc(tmp_path, surfaces)
    (tmp_path / "ImageSets/Segmentation/default.txt").unlink()
    listed = "\n".join(f"data/VOC2012/JPEGImages/{stem}.jpg" for stem in surfaces)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text(listed)
    layout = find_layout(tmp_path)
    assert ({pair.split for pair in layout.pairs}, layout.problems) == ({"train"}, [])
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("ghost\nother/strip-2")
    (problem,) = find_layout(tmp_path).problems
    assert problem.what == "none of its 2 lines is of an image, such as 'ghost'"


@pytest.mark.parametrize(
    ("folder", "names"), [("data/training set", "data/test set"), ("data/a", "data/b"), ("train", None)]
)
def test_splits_under_other_names_are_told(
    surfaces: sources.Surfaces, tmp_path: Path, folder: str, names: str | None
) -> None:
    """In folders below one that all share, or in the names of files."""
    first, others = dict(list(surfaces.items())[:3]), dict(list(surfaces.items())[3:])
    if names is None:
        parts = [{f"train_{stem}": s for stem, s in first.items()}, {f"test-{stem}": s for stem, s in others.items()}]
        patterns, told = ["{}.png", "{}.png"], "names of images begin with test, train; only folders of such names"
    else:
        parts, patterns = [first, others], [f"{folder}/{{}}.png", f"{names}/{{}}.png"]
        told = f"2 folders ({', '.join(sorted(part.removeprefix('data/') for part in (folder, names)))}), none of which"
    for part, pattern in zip(parts, patterns, strict=True):
        sources.folders(f"images/{pattern}", f"masks/{pattern}")(tmp_path, part)
    (note,) = find_layout(tmp_path).notes
    assert note.startswith(told) and note.endswith("images are assigned to splits anew")


def test_splits_of_coco_files(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    """Names of images repeat in both splits; the folder says which is meant."""
    for split in ("train", "val"):
        sources.images(tmp_path, surfaces, split + "2017/{}.png")
        (tmp_path / "annotations").mkdir(exist_ok=True)
        document = json.dumps(sources.coco_document(surfaces))
        (tmp_path / f"annotations/instances_{split}2017.json").write_text(document)
    layout = find_layout(tmp_path)
    assert layout.problems == []
    found = {pair.id.partition("/")[0]: pair.split for pair in layout.pairs}
    assert found == {"train2017": "train", "val2017": "eval"} and len(layout.pairs) == 2 * len(surfaces)
    assert all(pair.id.partition("/")[0] in pair.mask.name for pair in layout.pairs)


def test_images_that_no_folder_of_severstal_labels_are_left_out(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    sources.severstal(tmp_path, surfaces)
    sources.images(tmp_path, {"clean": surfaces["strip"]}, "train_images/{}.png")
    layout = find_layout(tmp_path)
    assert {entry.why: entry.files for entry in layout.left_out} == {
        "images in a folder of which the CSV names none": 2
    }
    clean = next(pair for pair in layout.pairs if pair.id == "clean")
    assert examine(clean, CONFIG).pixels.tolist()[1:] == [0, 0, 0]
    assert any("images without run lengths in the CSV are background" in note for note in layout.notes)


def test_severstals_table_may_come_from_pandas(
    surfaces: sources.Surfaces, expected: dict[str, tuple[Any, ...]], tmp_path: Path
) -> None:
    """Where some rows have no class, all others' are floats."""
    sources.severstal(tmp_path, surfaces)
    table = tmp_path / "train.csv"
    table.write_text(re.sub(r"png,([123]),", r"png,\1.0,", table.read_text()))
    assert records(tmp_path) == expected


def test_a_submission_beside_the_truth_of_severstal_is_none(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    """As the archive of Kaggle has it: a run of one pixel for each class and image of the contest."""
    sources.severstal(tmp_path, surfaces)
    expected = find_layout(tmp_path).pairs
    names = sorted(path.name for path in (tmp_path / "test_images").iterdir())
    lines = [f"{name}_{class_id},1 1" for name in names for class_id in (1, 2, 3)]
    (tmp_path / "sample_submission.csv").write_text("\n".join(["ImageId_ClassId,EncodedPixels", *lines]))
    layout = find_layout(tmp_path)
    assert (list(layout.pairs), layout.problems) == (list(expected), [])
    assert {entry.why: entry.files for entry in layout.left_out} == {
        "images in a folder of which the CSV names none": 2,
        "tables of a contest's submission, which is no truth": 1,
    }
    (tmp_path / "train.csv").rename(tmp_path / "my_submission.csv")
    (tmp_path / "sample_submission.csv").unlink()
    alone = find_layout(tmp_path)
    assert ([pair.id for pair in alone.pairs], alone.problems) == ([pair.id for pair in expected], [])


def test_an_image_in_two_tables_of_severstal_is_refused(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    sources.severstal(tmp_path, surfaces)
    shutil.copy(tmp_path / "train.csv", tmp_path / "predicted.csv")
    (problem,) = find_layout(tmp_path).problems
    assert re.search(r"train\.csv: has lines of .*\.png, as predicted\.csv has; expected one table", str(problem))
    (tmp_path / "old").mkdir()
    (tmp_path / "predicted.csv").rename(tmp_path / "old/train.csv")
    (problem,) = find_layout(tmp_path).problems
    assert "/train.csv: has lines of " in str(problem) and "as old/train.csv has" in str(problem)


@pytest.mark.parametrize("root", ["C:\\photos\\images\\", "/data/upload/7/", "s3://bucket/images/"])
def test_coco_may_name_images_by_their_paths_elsewhere(
    surfaces: sources.Surfaces, expected: dict[str, tuple[Any, ...]], tmp_path: Path, root: str
) -> None:
    """As tools write them that were given a drive, uploads or a store."""
    sources.images(tmp_path, surfaces)
    document = sources.coco_document(surfaces)
    for image in document["images"]:
        image["file_name"] = root + image["file_name"]
    (tmp_path / "all.json").write_text(json.dumps(document))
    assert records(tmp_path) == expected
    sources.images(tmp_path, {"strip": surfaces["strip"]}, "copies/{}.png")
    problems = [str(problem) for problem in find_layout(tmp_path).problems]
    assert len(problems) == ("images" not in root) and all(
        "copies/strip.png or images/strip.png" in p for p in problems
    )


def test_images_of_coco_are_not_those_of_another_folder(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    """Two cameras count from 1: what one shows is not drawn on the other's image."""
    sources.images(tmp_path / "set", {"001": surfaces["strip"]}, "cam1/{}.png")
    document = sources.coco_document({"001": surfaces["strip"], "1": surfaces["strip"]})
    (image, other), both = document["images"], document["images"][:]
    image["file_name"], other["file_name"] = "/home/u/set/cam2/001.png", "/home/u/set/cam1/001.png"
    for listed in ([image], both):
        document["images"] = listed
        document["annotations"] = []
        (tmp_path / "set/all.json").write_text(json.dumps(document))
        layout = find_layout(tmp_path / "set")
        assert [p.what for p in layout.problems] == ["lists '/home/u/set/cam2/001.png', which is not there"]
        assert [pair.id for pair in layout.pairs] == ["cam1/001"] * (len(listed) - 1)


def test_paths_of_coco_may_go_through_the_source_itself(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    sources.images(tmp_path / "photos", {"001": surfaces["strip"], "cam1/001": surfaces["strip"]}, "{}.png")
    document = sources.coco_document({"001": surfaces["strip"]})
    document["images"][0]["file_name"] = "C:\\photos\\001.png"
    (tmp_path / "photos/all.json").write_text(json.dumps(document))
    layout = find_layout(tmp_path / "photos")
    assert ([pair.id for pair in layout.pairs], layout.problems) == (["001"], [])


def test_coco_may_name_images_as_addresses_do(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    """With a space as %20; a name that is there as it is written comes first."""
    sources.images(tmp_path, {"steel": surfaces["strip"]}, "my photos/hot {}.png")
    document = sources.coco_document({"steel": surfaces["strip"]})
    for written, found in (
        ("my%20photos/hot%20steel.png", "hot steel"),
        ("my%20photos/hot%20steel.png", "hot%20steel"),
    ):
        document["images"][0]["file_name"] = "/data/local-files/?d=" + written
        (tmp_path / "all.json").write_text(json.dumps(document))
        (pair,) = find_layout(tmp_path).pairs
        assert pair.image.stem == found
        sources.images(tmp_path, {"steel": surfaces["strip"]}, "my%20photos/hot%20{}.png")


def test_predictions_in_coco_are_told(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    sources.images(tmp_path, surfaces)
    document = sources.coco_document(surfaces)
    for annotation in document["annotations"][:5]:
        annotation["score"] = "0.5"
    (tmp_path / "all.json").write_text(json.dumps(document))
    told = "5 annotations have a score, as a model's predictions do: they are taken for truth"
    assert told in find_layout(tmp_path).notes


def test_the_category_that_roboflow_puts_before_the_others_is_no_class(
    surfaces: sources.Surfaces, expected: dict[str, tuple[Any, ...]], tmp_path: Path
) -> None:
    sources.images(tmp_path, surfaces)
    document = sources.coco_document(surfaces)
    for category in document["categories"]:
        category["supercategory"] = "defects-of-steel"
    document["categories"].insert(0, {"id": 0, "name": "defects-of-steel", "supercategory": "none"})
    (tmp_path / "_annotations.coco.json").write_text(json.dumps(document))
    document["categories"].append({"id": 99, "name": "odd", "supercategory": ["none"]})
    (tmp_path / "_annotations.coco.json").write_text(json.dumps(document))
    assert records(tmp_path) == expected
    document["categories"].pop()
    (tmp_path / "_annotations.coco.json").write_text(json.dumps(document))
    assert "the category defects-of-steel stands for the others" in " ".join(find_layout(tmp_path).notes)
    found = READERS["coco"].classes(Source(find_files(tmp_path))) or []
    assert tuple(c.name for c in found) == sources.NAMES[1:]
    document["annotations"][0]["category_id"] = 0
    (tmp_path / "_annotations.coco.json").write_text(json.dumps(document))
    problems = [p for p in examine_each(find_layout(tmp_path).pairs, CONFIG) if isinstance(p, Problem)]
    assert [p.what for p in problems] == ["names the class 'defects-of-steel'"]


def test_roboflows_first_category_may_have_a_classs_name(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    """And what is drawn in some document is a class in all."""
    document = sources.coco_document(surfaces)
    first, second, third = document["categories"]
    group = {"id": 0, "name": first["name"], "supercategory": "none"}
    for category, above in ((first, first), (second, third), (third, {"name": "none"})):
        category["supercategory"] = above["name"]
    document["categories"].insert(0, group)
    stems = list(surfaces)
    for split, chosen in (("train", stems[:-1]), ("valid", stems[-1:])):
        some = {stem: surfaces[stem] for stem in chosen}
        sources.images(tmp_path, some, f"{split}/{{}}.png")
        part = {**document, **{key: sources.coco_document(some)[key] for key in ("images", "annotations")}}
        part["annotations"] = part["annotations"] if split == "train" else []
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(part))
    found = READERS["coco"].classes(Source(find_files(tmp_path))) or []
    assert tuple(c.name for c in found) == sources.NAMES[1:]
    assert not any("is no class" in note for note in find_layout(tmp_path).notes)


CLASS_LISTS: dict[str, tuple[str, str]] = {
    "labelmap.txt": ("# label:color_rgb:parts:actions\nbackground:0,0,0::\n", "{name}:{red},{green},{blue}::\n"),
    "label_colors.txt": ("", "{red} {green} {blue}\t{name}\n"),
    "class_dict.csv": ("name,r,g,b\n", "{name},{red},{green},{blue}\n"),
    "_classes.csv": ("Pixel Value, Class\n0, background\n", "{number}, {name}\n"),
}


@pytest.mark.parametrize("name", CLASS_LISTS)
def test_a_list_of_classes_that_the_config_contradicts_is_refused(
    surfaces: sources.Surfaces, tmp_path: Path, name: str, capfd: Any
) -> None:
    """Two classes that change places would train without a word; names that the config lacks are another language."""
    sources.images(tmp_path / "src", surfaces, "train/{}.png")
    for stem, (_, class_ids) in surfaces.items():
        is_ids = name == "_classes.csv"
        sources.save(tmp_path / f"src/train/{stem}_mask.png", class_ids if is_ids else sources.COLORS[class_ids])
    head, line = CLASS_LISTS[name]
    wordings = {
        "theirs": ("patches", "inclusion", "scratches"),
        "ours": ("Inclusion", "patches", "scratches"),
        "others": ("Einschluss", "Flecken", "Kratzer"),
    }
    for kind, names in wordings.items():
        lines = [
            line.format(
                name=n, number=i, **dict(zip(("red", "green", "blue"), sources.COLORS[i].tolist(), strict=True))
            )
            for i, n in enumerate(names, start=1)
        ]
        (tmp_path / "src/train" / name).write_text(head + "".join(lines))
        code = ingest_code(tmp_path / "src", tmp_path, "--splits", "regroup")
        errors = [e for e in capfd.readouterr().err.splitlines() if name in e]
        assert len(errors) == (2 if kind == "theirs" else 0) and (code == 1 or kind != "theirs")
        what = "id 1" if is_ids else "RGB (0, 0, 255)"
        assert kind != "theirs" or f"/{name}: says that {what} is patches, which is inclusion here" in errors[0]


@pytest.mark.parametrize(
    "line", ["{}:{},{},{}::", "{}:{},{},{}", " {}: {}, {}, {}:part:action"], ids=["whole", "short", "spaced"]
)
def test_a_labelmap_is_one_for_every_layout(surfaces: sources.Surfaces, tmp_path: Path, line: str, capfd: Any) -> None:
    """What names the classes of VOC is compared with those of the config, there and beside masks of another layout."""
    names = ("background", "patches", "inclusion", "scratches")
    lines = [line.format(name, *color) for name, color in zip(names, sources.COLORS.tolist(), strict=True)]
    sources.voc(tmp_path / "voc", surfaces)
    sources.folders("images/{}.png", "masks/{}.png")(tmp_path / "folders", surfaces)
    for layout in ("voc", "folders"):
        (tmp_path / layout / "labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", *lines]))
        assert ingest_code(tmp_path / layout, tmp_path, "--layout", layout) == 1
        assert "labelmap.txt: says that RGB (0, 0, 255) is patches" in capfd.readouterr().err
    told = READERS["voc"].classes(Source(find_files(tmp_path / "voc"))) or []
    assert [(c.name, c.color) for c in told] == [(n, tuple(c)) for n, c in zip(names, sources.COLORS, strict=True)]


def test_a_line_of_a_labelmap_without_a_colour_is_named(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    sources.voc(tmp_path, surfaces)
    with (tmp_path / "labelmap.txt").open("a") as file:
        file.write("crack\n")
    with pytest.raises(BadAnnotation, match=r"the line of 'crack' has no colour; expected name:red,green,blue::"):
        READERS["voc"].classes(Source(find_files(tmp_path)))


@pytest.mark.parametrize(
    ("folder", "name", "are_ids"), [("old", "class_dict.csv", 0), ("", "_classes.csv", 0), ("", "class_dict.csv", 1)]
)
def test_a_list_of_classes_of_other_masks_is_none(
    surfaces: sources.Surfaces, tmp_path: Path, folder: str, name: str, are_ids: int, capfd: Any
) -> None:
    """In a folder without masks that are read; of ids where masks are in colours; of colours where they are ids."""
    source = tmp_path / "src"
    for stem, (image, class_ids) in surfaces.items():
        sources.save(source / f"images/{stem}.png", image)
        sources.save(source / f"masks/{stem}.png", class_ids if are_ids else sources.COLORS[class_ids])
    head, line = CLASS_LISTS[name]
    colors = [dict(zip(("red", "green", "blue"), color, strict=True)) for color in sources.COLORS[1:].tolist()]
    lines = [line.format(name=n, number=i, **colors[i - 1]) for i, n in ((1, "patches"), (2, "inclusion"))]
    (source / folder).mkdir(exist_ok=True)
    (source / folder / name).write_text(head + "".join(lines))
    assert bool(find_layout(source).told) != bool(folder)
    ingest_code(source, tmp_path)
    assert not [error for error in capfd.readouterr().err.splitlines() if "says that" in error]


def test_images_without_a_mask_are_background_where_it_is_said(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    sources.folders("images/{}.png", "masks/{}.png")(tmp_path, surfaces)
    sources.images(tmp_path, {"clean": surfaces["strip"]}, "images/good/{}.png")
    layout = find_layout(tmp_path)
    assert layout.problems == [] and layout.notes[0] == (
        "1 images without a mask, in folders named good, are background as a whole"
    )
    (tmp_path / "masks/strip.png").unlink()
    (problem,) = find_layout(tmp_path).problems
    assert "image without a mask" in problem.what and "--no-mask-is-background" in problem.repair
    layout = find_layout(tmp_path, no_mask_is_background=True)
    assert "1 images without a mask are background as a whole (--no-mask-is-background)" in layout.notes
    facts = {pair.id: examine(pair, CONFIG) for pair in layout.pairs}
    assert facts["strip"].pixels.tolist() == facts["good/clean"].pixels.tolist() == [20 * SIZE, 0, 0, 0]


def test_shapes_of_labelme(tmp_path: Path) -> None:
    """The circle is within 1 % of its area, a mask is exactly its PNG, rectangles are pixels between the points."""
    png = Image.fromarray(np.array([[255, 0, 255], [0, 255, 0]], np.uint8))
    buffer = BytesIO()
    png.save(buffer, "PNG")
    shapes = [
        {"label": "inclusion", "points": [[30, 30], [30, 50]], "shape_type": "circle"},
        {"label": "patches", "points": [[70, 9], [60, 2]], "shape_type": "rectangle"},
        {"label": "scratches", "points": [[2, 3], [4, 4]], "shape_type": "mask",
         "mask": base64.b64encode(buffer.getvalue()).decode()},
    ]  # fmt: skip
    sources.save(tmp_path / "a.png", np.zeros((60, 80, 3), np.uint8))
    (tmp_path / "a.json").write_text(json.dumps({"version": "5.5.0", "shapes": shapes, "imagePath": "a.png"}))
    (pair,) = find_layout(tmp_path).pairs
    class_ids = read_class_ids(pair, (80, 60), CONFIG)
    assert (class_ids == 1).sum() == pytest.approx(np.pi * 400, rel=0.01)
    np.testing.assert_array_equal(np.argwhere(class_ids == 2)[[0, -1]], [[2, 60], [8, 69]])
    np.testing.assert_array_equal(class_ids[3:5, 2:5], [[3, 0, 3], [0, 3, 0]])


def test_a_folder_of_which_no_image_has_a_mask_is_doubted(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    """A contest's test set is not labelled, and would teach that defects are background."""
    sources.folders("train/images/{}.png", "train/masks/{}.png")(tmp_path, surfaces)
    (tmp_path / "train/masks/strip.png").unlink()
    layout = find_layout(tmp_path, no_mask_is_background=True)
    assert layout.notes == ("1 images without a mask are background as a whole (--no-mask-is-background)",)
    sources.images(tmp_path, surfaces, "test/images/{}.png")
    layout = find_layout(tmp_path, no_mask_is_background=True)
    assert layout.notes[0].startswith("8 images") and layout.notes[1:] == (
        "no image in test has a mask: are they free of defects, or not labelled?",
    )


def test_empty_label_files_of_yolo_are_told(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    sources.yolo(tmp_path, surfaces)
    (tmp_path / "labels/strip.txt").write_text("")
    empty = 1 + sum(not ids.any() for stem, (_, ids) in surfaces.items() if stem != "strip")
    assert find_layout(tmp_path).notes == (f"{empty} images whose label file is empty are background as a whole",)


def rectangle(x: float, y: float, width: float, height: float, degrees: float) -> list[list[float]]:
    """The corners of a box that was turned around its middle."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [width / 2, height / 2]
    return (corners @ turn.T + [x, y]).tolist()


@pytest.mark.parametrize("kind", ["YOLO", "COCO", "labelme"])
def test_turned_boxes_are_doubted_as_upright_ones_are(tmp_path: Path, kind: str) -> None:
    """As YOLO's oriented boxes, nine numbers a line, and X-AnyLabeling's; four corners alone are no rectangle."""
    boxes = [rectangle(40, 30, 30, 9, 33), rectangle(70, 60, 12, 20, 0)]
    for name, corners in (("a", boxes), ("b", [boxes[0], [[9, 9], [30, 12], [28, 40], [9, 30]]])):
        sources.save(tmp_path / f"images/{name}.png", np.zeros((80, 100), np.uint8))
        if kind == "YOLO":
            (tmp_path / "labels").mkdir(exist_ok=True)
            shares = [(np.array(points) / (100, 80)).ravel() for points in corners]
            lines = [" ".join(["0", *(f"{share:.6f}" for share in row)]) for row in shares]
            (tmp_path / f"labels/{name}.txt").write_text("\n".join(lines))
        if kind == "labelme":
            types = ["rotation", "rectangle" if name == "a" else "polygon"]
            shapes = [{"label": "patches", "points": p, "shape_type": t} for p, t in zip(corners, types, strict=True)]
            (tmp_path / f"images/{name}.json").write_text(json.dumps({"shapes": shapes}))
        if kind == "COCO":
            images = [{"id": 1, "file_name": f"{name}.png", "width": 100, "height": 80}]
            annotations = [
                {"id": i, "image_id": 1, "category_id": 1, "segmentation": [np.array(p).ravel().tolist()]}
                for i, p in enumerate(corners)
            ]
            document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "patches"}]}
            (tmp_path / f"{name}.json").write_text(json.dumps(document))
    facts = {pair.id: examine(pair, CONFIG) for pair in find_layout(tmp_path).pairs}
    assert {name: f.boxes for name, f in facts.items()} == {"a": True, "b": False}
    assert facts["a"].pixels[1:].sum() == pytest.approx(30 * 9 + 12 * 20, rel=0.03)


@pytest.mark.parametrize(("order", "expected"), [("last", [2, 1, 1]), ("smallest", [2, 2, 3]), ("classes", [2, 3, 3])])
def test_which_instance_is_on_top(tmp_path: Path, order: str, expected: list[int]) -> None:
    """In the order of the file: a small 2, a middling 3 over half of it, a large 1 over all but a part of the 2."""
    image = np.zeros((10, 40, 3), np.uint8)
    sources.save(tmp_path / "a.png", image)
    spans = [("patches", 0, 10), ("scratches", 5, 25), ("inclusion", 5, 40)]
    shapes = [{"label": n, "points": [[a, 0], [b, 0], [b, 10], [a, 10]], "shape_type": "polygon"} for n, a, b in spans]
    (tmp_path / "a.json").write_text(json.dumps({"shapes": shapes}))
    (pair,) = find_layout(tmp_path).pairs
    facts = examine(pair, config_with(overlaps=order))
    class_ids = read_class_ids(pair, (40, 10), config_with(overlaps=order))
    assert class_ids[0, [2, 7, 20]].tolist() == expected
    assert facts.overlaps == 200


@pytest.mark.parametrize("place", ["classes.txt", "labels/classes.txt", "obj.names"])
def test_yolo_names_its_classes_in_a_list_too(
    surfaces: sources.Surfaces, expected: dict[str, tuple[Any, ...]], tmp_path: Path, place: str
) -> None:
    """In another order than the config's: numbers are of the list."""
    sources.yolo(tmp_path, surfaces)
    (tmp_path / "data.yaml").unlink()
    (tmp_path / place).write_text("scratches\ninclusion\npatches\n")
    for file in (tmp_path / "labels").glob("s*.txt"):
        lines = [line.split(" ", 1) for line in file.read_text().splitlines()]
        file.write_text("\n".join(f"{(int(number) + 1) % 3} {rest}" for number, rest in lines))
    assert records(tmp_path) == expected
    assert [c.name for c in READERS["yolo"].classes(Source(find_files(tmp_path)))] == [
        *("scratches", "inclusion", "patches")
    ]


def test_images_without_an_annotation_of_coco_are_told(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    sources.images(tmp_path, surfaces)
    document = sources.coco_document(surfaces)
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] == 7]
    (tmp_path / "all.json").write_text(json.dumps(document))
    assert find_layout(tmp_path).notes == ("6 images without an annotation in the JSON are background as a whole",)


def test_lists_of_splits_that_are_not_read_are_told(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    sources.folders("images/{}.png", "masks/{}.png")(tmp_path, surfaces)
    for name in ("train.txt", "lists/val_list.csv", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("steel-00001\n")
    (note,) = find_layout(tmp_path).notes
    assert note.startswith("lists/val_list.csv, train.txt: not read, though the names are those of splits")


@pytest.mark.parametrize(("write", "folder"), [(sources.yolo, "images"), (sources.severstal, "train_images")])
def test_formats_that_tell_no_size_are_doubted_where_exif_turns(
    surfaces: sources.Surfaces, tmp_path: Path, write: Callable[[Path, sources.Surfaces], None], folder: str
) -> None:
    """Shares and run lengths fit the stored pixels as well as the upright ones."""
    write(tmp_path, {"strip": surfaces["strip"]})
    file = tmp_path / folder / "strip.png"
    for doubted in (False, True):
        (pair,) = find_layout(tmp_path).pairs
        assert examine(pair, CONFIG).turned_alone is doubted
        upright = Image.open(file)
        upright.transpose(Image.Transpose.ROTATE_90).save(file, exif=b"Exif\0\0" + exif(6))
        assert Image.open(file).getexif()[0x0112] == 6


# What cannot be told, and what is wrong.


def test_several_layouts_are_refused_with_the_choices(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    sources.folders("images/{}.png", "masks/{}.png")(tmp_path, surfaces)
    sources.labelme("images/{}.png", "images/{}.json")(tmp_path, surfaces)
    with pytest.raises(UserError) as caught:
        find_layout(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: fits several layouts: folders (masks such as masks/steel-00001.png) and labelme "
        "(images/steel-00001.json); expected one: choose with --layout folders or --layout labelme"
    )
    assert records(tmp_path, layout="folders").keys() == records(tmp_path, layout="labelme").keys()


def test_a_folder_of_photos_is_no_layout(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    sources.images(tmp_path, surfaces, "photos of monday/{}.png")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "project-7.json").write_text('[{"data": {"image": "a.png"}, "annotations": []}]')
    layout = find_layout(tmp_path)
    (problem,) = layout.problems
    assert problem.repair.startswith("export project-7.json anew as COCO JSON, rename")
    assert problem.what.startswith(
        "7 images such as photos of monday/steel-00001.png, 1 .txt, 1 .json, and nothing that"
    )
    assert all(name in problem.expected for name in READERS)
    (problem,) = find_layout(tmp_path, layout="coco").problems
    assert problem.what == "nothing of the layout coco here"


def test_a_folder_around_all_that_is_called_as_one_of_masks_is_told(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    """The laboratory's."""
    sources.folders("Lab/images/{}.png", "Lab/masks/{}.png")(tmp_path, surfaces)
    (problem,) = find_layout(tmp_path).problems
    assert str(problem) == (
        f"{tmp_path}: 14 images in folders for masks, such as Lab/images/steel-00001.png, and none in others; expected "
        f"images/ beside masks/: give {tmp_path}/Lab as SOURCE, or rename it"
    )
    assert find_layout(tmp_path / "Lab").problems == []


def test_a_suffix_that_explains_not_all_is_told(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    sources.folders("images/{}.png", "masks/{}_mask.png")(tmp_path, surfaces)
    (tmp_path / "masks/strip_mask.png").rename(tmp_path / "masks/strip_msk.png")
    (problem,) = find_layout(tmp_path).problems
    assert "the suffix _mask explains 6 masks, but not masks/strip_msk.png" in problem.what


def test_masks_of_several_kinds_are_told(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    """As Cityscapes has them, and CVAT's export of that name."""
    sources.images(tmp_path, surfaces, "leftImg8bit/default/{}_leftImg8bit.png")
    for kind in ("color", "instanceIds", "labelIds"):
        sources.color_masks(tmp_path, surfaces, f"gtFine/default/{{}}_gtFine_{kind}.png")
    (problem,) = find_layout(tmp_path).problems
    assert "the masks are of 3 kinds, _color, _instanceIds, _labelIds: move all but one elsewhere" in problem.what
    for kind in ("color", "instanceIds"):
        for mask in (tmp_path / "gtFine/default").glob(f"*_{kind}.png"):
            mask.unlink()
    assert find_layout(tmp_path).problems == []


Damage = Callable[[dict[str, Any]], Any]


def first(document: dict[str, Any]) -> dict[str, Any]:
    return document["annotations"][0]


COCO_DAMAGE: dict[str, tuple[Damage, str]] = {
    "category": (lambda d: first(d).update(category_id=99), "annotation 1: has the category 99, which `categories`"),
    "image": (lambda d: first(d).update(image_id=99), "annotation 1: is of the image 99, which `images` lacks"),
    "no image id": (lambda d: first(d).pop("image_id"), "annotations[0].image_id: Field required"),
    "outside": (lambda d: first(d).update(segmentation=[[0, 0, 90, 0, 90, 9]]), "the point (90, 0), outside"),
    "infinite": (lambda d: first(d).update(segmentation=[[0, 0, 1e999, 0, 9, 9]]), "no valid JSON"),
    "two points": (lambda d: first(d).update(segmentation=[[0, 0, 9, 9]]), "a polygon of 4 numbers"),
    "odd": (lambda d: first(d).update(segmentation=[[0, 0, 9, 9, 3, 4, 5]]), "a polygon of 7 numbers"),
    "words": (lambda d: first(d).update(segmentation=[["a"] * 6]), "annotations[0].segmentation"),
    "deep": (lambda d: first(d).update(segmentation=json.loads("[" * 99 + "]" * 99)), "in more than 64 brackets"),
    "box only": (lambda d: first(d).pop("segmentation"), "annotation 1: has no segmentation"),
    "short runs": (lambda d: first(d).update(segmentation={"size": [48, 48], "counts": [5, 9]}), "run lengths of 14"),
    "long runs": (lambda d: first(d).update(segmentation={"size": [48, 48], "counts": [9999]}), "run lengths of 9999"),
    "negative runs": (
        lambda d: first(d).update(segmentation={"size": [48, 48], "counts": [2400, -96]}),
        "run lengths of 2304",
    ),
    "other size": (
        lambda d: first(d).update(segmentation={"size": [9, 9], "counts": [81]}),
        "run lengths of [9, 9]",
    ),
    "packed, cut": (lambda d: first(d).update(segmentation={"size": [48, 48], "counts": "53X"}), "in the middle"),
    "packed, foreign": (lambda d: first(d).update(segmentation={"size": [48, 48], "counts": "5 3"}), "character ' '"),
    "packed, short": (lambda d: first(d).update(segmentation={"size": [48, 48], "counts": "53"}), "run lengths of 8"),
    "file": (lambda d: d["images"][0].update(file_name="ghost.png"), "lists 'ghost.png', which is not there"),
    "way out": (lambda d: d["images"][0].update(file_name="../../etc/passwd"), "'../../etc/passwd', which is not"),
    "no size": (lambda d: d["images"][0].update(width=0), "an image of 0x48"),
    "twice": (lambda d: d["images"].append(dict(d["images"][0])), "two image entries have the id 7"),
    "size": (lambda d: d["images"][-1].update(width=47), "47x20 of an image of 48x20"),
    "class": (lambda d: d["categories"][0].update(name="dent"), "names the class 'dent'"),
}


def ingest_code(source: Path, tmp_path: Path, *options: str) -> int:
    config = tmp_path / "mine.toml"
    lines = [
        f'[[classes]]\nname = "{n}"\ncolor = {c.tolist()}' for n, c in zip(sources.NAMES, sources.COLORS, strict=True)
    ]
    config.write_text("\n".join(lines))
    with pytest.raises(SystemExit) as ended:
        main.main(["ingest", str(source), str(tmp_path / "out"), "--config", str(config), "--check", *options])
    return int(ended.value.code or 0)


@pytest.mark.parametrize("kind", COCO_DAMAGE)
def test_damaged_coco_is_named(surfaces: sources.Surfaces, tmp_path: Path, kind: str, capfd: Any) -> None:
    damage, words = COCO_DAMAGE[kind]
    small = {stem: surfaces[stem] for stem in ("steel-00001", "strip")}
    sources.coco(sources.as_polygons)(tmp_path / "src", small)
    file = tmp_path / "src/annotations/instances_default.json"
    document = json.loads(file.read_text())
    damage(document)
    file.write_text(json.dumps(document).replace("Infinity", "1e999"))
    assert ingest_code(tmp_path / "src", tmp_path) == 1
    errors = capfd.readouterr().err.splitlines()
    assert all(line.startswith("error: ") and str(file) in line and "expected" in line for line in errors)
    assert words in errors[0] and len(errors) <= 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_json_file_that_was_cut_is_named(
    surfaces: sources.Surfaces, tmp_path: Path, share: float, capfd: Any
) -> None:
    sources.coco(sources.as_polygons)(tmp_path / "src", surfaces)
    file = tmp_path / "src/annotations/instances_default.json"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    assert ingest_code(tmp_path / "src", tmp_path, "--layout", "coco") == 1
    (error,) = capfd.readouterr().err.splitlines()
    assert "no valid JSON" in error and str(file) in error


def test_an_instance_that_covers_no_pixel_is_told(surfaces: sources.Surfaces, tmp_path: Path, capfd: Any) -> None:
    """A slip of the hand, or a tool that mixes shares of the image with pixels."""
    sources.yolo(tmp_path / "src", surfaces)
    labels = tmp_path / "src/labels/steel-00001.txt"
    labels.write_text("0 .001 .001 .002 .001 .002 .002\n" + labels.read_text())
    assert ingest_code(tmp_path / "src", tmp_path) == 0
    assert "1 annotated instances of 1 images cover no pixel and are lost" in " ".join(capfd.readouterr().out.split())


LABELME_DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no JSON": (lambda p: p.write_text("{'shapes': []}"), "no valid JSON"),
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:300]), "no valid JSON"),
    "deep": (lambda p: p.write_text('{"shapes": ' + "[" * 100_000 + "]" * 100_000 + "}"), "a.json"),
    "no points": (lambda p: p.write_text('{"shapes": [{"label": "patches"}]}'), "shapes.0.points: Field required"),
    "no number": (
        lambda p: p.write_text('{"shapes": [{"label": "patches", "points": [[1, "x"]]}]}'),
        "shapes.0.points.0.1",
    ),
    "foreign label": (lambda p: p.write_text(p.read_text().replace("scratches", "dent")), "names the class 'dent'"),
    "outside": (lambda p: p.write_text(p.read_text().replace("[[", "[[-900, 3], [", 1)), "outside of its image"),
    "line": (lambda p: p.write_text(p.read_text().replace('"polygon"', '"line"')), "a line; expected a polygon"),
    "size": (lambda p: p.write_text(p.read_text().replace('"imageWidth": 48', '"imageWidth": 49')), "49x48"),
    "image": (lambda p: p.write_text(p.read_text().replace("\\\\a.png", "\\\\b.png")), "is of the image b"),
}


@pytest.mark.parametrize("kind", LABELME_DAMAGE)
def test_damaged_labelme_files_are_named(surfaces: sources.Surfaces, tmp_path: Path, kind: str, capfd: Any) -> None:
    damage, words = LABELME_DAMAGE[kind]
    with_scratches = next(s for s in surfaces.values() if (s[1] == 3).any() and s[1].shape == (48, 48))
    sources.labelme("{}.png", "{}.json")(tmp_path / "src", {"a": with_scratches, "b": surfaces["steel-00002"]})
    damage(tmp_path / "src/a.json")
    assert ingest_code(tmp_path / "src", tmp_path) == 1
    (error,) = capfd.readouterr().err.splitlines()
    assert error.startswith(f"error: {tmp_path}/src/a.json: ") and words in error and "expected" in error


TEXT_DAMAGE: dict[str, tuple[Callable[[Path, sources.Surfaces], None], str, Callable[[str], str], str]] = {
    "YOLO words": (sources.yolo, "labels/steel-00001.txt", lambda t: "a " + t, "line 1: has other things than numbers"),
    "YOLO class": (sources.yolo, "labels/steel-00001.txt", lambda t: "7" + t[1:], "line 1: has the class 7"),
    "YOLO box": (sources.yolo, "labels/steel-00001.txt", lambda t: "0 .1 .1 .2 .2\n", "line 1: is a box"),
    "YOLO pixels": (sources.yolo, "labels/steel-00001.txt", lambda t: "0 1 1 20 1 20 20\n", "outside of its image"),
    "YOLO odd": (sources.yolo, "labels/steel-00001.txt", lambda t: "0 .1 .1 .2 .2 .3\n", "line 1: has 5 coordinates"),
    "YOLO names": (sources.yolo, "data.yaml", lambda t: t.replace("inclusion", "dent"), "names the class 'dent'"),
    "YOLO list": (sources.yolo, "data.yaml", lambda t: "names: 3\n", "a key names that lists no words"),
    "YOLO count": (sources.yolo, "data.yaml", lambda t: t + "nc: 4\n", "has nc: 4 and 3 names; expected a name for"),
    "YOLO YAML": (sources.yolo, "data.yaml", lambda t: "names: [a\n", "no valid YAML"),
    "YOLO object": (sources.yolo, "data.yaml", lambda t: "!!python/object/apply:os.system ['true']\n", "no valid YAML"),
    "CSV columns": (sources.severstal, "train.csv", lambda t: t.replace("Pixels\r\n", "Pixels,who\r\n", 1), "columns"),
    "CSV class": (sources.severstal, "train.csv", lambda t: t.replace("png,1,", "png,9,"), "ClassId 9"),
    "CSV word": (sources.severstal, "train.csv", lambda t: t.replace("png,1,", "png,x,"), "cannot be read; expected"),
    "CSV odd": (sources.severstal, "train.csv", lambda t: t.rstrip() + " 7\r\n", "numbers of runs"),
    "CSV end": (sources.severstal, "train.csv", lambda t: t.rstrip() + " 2300 90\r\n", "runs outside of its image"),
    "CSV zero": (sources.severstal, "train.csv", lambda t: t.rstrip() + " 0 1\r\n", "runs outside of its image"),
    "CSV huge": (sources.severstal, "train.csv", lambda t: t.rstrip() + f" {2**63 - 1} 9\r\n", "runs outside of"),
    "CSV huger": (sources.severstal, "train.csv", lambda t: t.rstrip() + f" {2**70} 9\r\n", "cannot be read; expected"),
    "CSV image": (sources.severstal, "train.csv", lambda t: t + "ghost.png,1,1 1\r\n", "has lines of ghost.png"),
    "CSV path": (sources.severstal, "train.csv", lambda t: t + "../x.png,1,1 1\r\n", "has lines of ../x.png"),
}


@pytest.mark.parametrize("kind", TEXT_DAMAGE)
def test_damaged_text_files_are_named(surfaces: sources.Surfaces, tmp_path: Path, kind: str, capfd: Any) -> None:
    write, name, damage, words = TEXT_DAMAGE[kind]
    write(tmp_path / "src", {stem: surfaces[stem] for stem in ("steel-00001", "steel-00002")})
    file = tmp_path / "src" / name
    file.write_bytes(damage(file.read_bytes().decode()).encode())
    assert ingest_code(tmp_path / "src", tmp_path) == 1
    errors = capfd.readouterr().err.splitlines()
    assert all(line.startswith("error: ") and "expected" in line for line in errors) and len(errors) <= 2
    assert words in errors[0]


class Evil:
    """Unpickling it would leave a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


ARCHIVES: dict[str, tuple[Callable[[Path], dict[str, Any]], str]] = {
    "pickle": (lambda mark: {"mask": np.array([Evil(mark)], object)}, "holds object [1]"),
    "two arrays": (lambda mark: {"a": np.zeros(1), "b": np.zeros(1)}, "holds a, b"),
    "other size": (lambda mark: {"mask": np.zeros((4, 4, 4))}, "holds float64 [4, 4, 4]"),
    "no class": (lambda mark: {"mask": np.zeros((48, 48, 4))}, "is not one-hot"),
    "two classes": (lambda mark: {"mask": np.ones((48, 48, 4))}, "is not one-hot"),
    "soft": (lambda mark: {"mask": np.full((48, 48, 4), 0.25)}, "is not one-hot"),
    "ids": (lambda mark: {"mask": np.full((48, 48), 4)}, "holds other numbers than class ids"),
    "words": (lambda mark: {"mask": np.full((48, 48), "a")}, "holds <U1"),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives_are_checked_and_never_unpickled(
    surfaces: sources.Surfaces, tmp_path: Path, kind: str, capfd: Any
) -> None:
    make, words = ARCHIVES[kind]
    sources.npz(sources.one_hot)(tmp_path / "src", {"a": surfaces["steel-00001"], "b": surfaces["steel-00002"]})
    np.savez(tmp_path / "src/masks/a.npz", **make(tmp_path / "mark"))
    assert ingest_code(tmp_path / "src", tmp_path) == 1
    (error,) = capfd.readouterr().err.splitlines()
    assert f"{tmp_path}/src/masks/a.npz: {words}" in error
    assert not (tmp_path / "mark").exists()


def test_a_damaged_archive_is_named_whatever_is_damaged(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    sources.npz(sources.one_hot)(tmp_path, {"a": surfaces["steel-00001"]})
    file = tmp_path / "masks/a.npz"
    whole = file.read_bytes()
    kinds = set()
    for position in range(0, len(whole), 5):
        file.write_bytes(whole[:position] + b"\xff(" + whole[position + 2 :])
        ((found,),) = [examine_each(find_layout(tmp_path).pairs, CONFIG)]
        kinds.add(found.what.partition("(")[0] if isinstance(found, Problem) else "read")
    assert {"read", "cannot be read "} <= kinds


def test_a_class_mask_with_more_than_two_levels_is_refused(
    surfaces: sources.Surfaces, tmp_path: Path, capfd: Any
) -> None:
    sources.class_masks("masks/{1}/{0}.png")(tmp_path / "src", {"a": surfaces["steel-00001"]})
    sources.save(tmp_path / "src/masks/patches/a.png", np.arange(48 * 48, dtype=np.uint8).reshape(48, 48))
    assert ingest_code(tmp_path / "src", tmp_path) == 1
    (error,) = capfd.readouterr().err.splitlines()
    assert "a.png: has the grey levels 0, 1, 2, 3, 4; expected black and one other" in error


def test_a_class_mask_may_have_any_one_color(
    surfaces: sources.Surfaces, expected: dict[str, tuple[Any, ...]], tmp_path: Path
) -> None:
    sources.images(tmp_path, surfaces)
    for stem, (_, class_ids) in surfaces.items():
        for class_id, name in enumerate(sources.NAMES[1:], start=1):
            mask = np.uint8([[[230, 159, 0]]]) * (class_ids == class_id)[..., np.newaxis]
            sources.save(tmp_path / f"masks/{name}/{stem}.png", mask)
    assert records(tmp_path) == expected
    mask[0, :2] = [[9, 9, 9], [8, 8, 8]]
    sources.save(tmp_path / f"masks/{name}/{stem}.png", mask)
    (problem,) = [p for p in examine_each(find_layout(tmp_path).pairs, CONFIG) if isinstance(p, Problem)]
    # In the folder of each class lies a mask of this name.
    assert problem.what.startswith(f"{name}/{stem}.png: has the colours 000000, 080808, 090909")


@pytest.mark.parametrize("kind", ["alpha alone", "palette"])
def test_a_class_mask_that_only_looks_empty_is_refused(
    surfaces: sources.Surfaces, tmp_path: Path, capfd: Any, kind: str
) -> None:
    """Its shape is in the alpha of a black picture, or in indices that a palette shows as black."""
    sources.class_masks("masks/{1}/{0}.png")(tmp_path / "src", {"a": surfaces["steel-00001"]})
    drawn = np.eye(48, dtype=np.uint8)
    mask = Image.fromarray(np.dstack([drawn * 0, drawn * 0, drawn * 0, drawn * 255]))
    if kind == "palette":
        mask = Image.fromarray(drawn, "P")
        mask.putpalette(bytes(6))
    mask.save(tmp_path / "src/masks/patches/a.png")
    assert ingest_code(tmp_path / "src", tmp_path) == 1
    (error,) = capfd.readouterr().err.splitlines()
    assert {"alpha alone": "drawn in alpha alone", "palette": "0 and 1 have one colour"}[kind] in error


def test_skip_bad_leaves_out_only_what_is_wrong(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    sources.coco(sources.as_polygons)(tmp_path, surfaces)
    file = tmp_path / "annotations/instances_default.json"
    document = json.loads(file.read_text())
    first(document).update(segmentation=[[0, 0, 90, 0, 90, 9]])
    file.write_text(json.dumps(document))
    layout = find_layout(tmp_path)
    bad = list(surfaces)[first(document)["image_id"] - 7]
    assert len(layout.problems) == 1
    assert {pair.id for pair in layout.pairs} == surfaces.keys() - {bad}


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not part of the repository")
@pytest.mark.parametrize(
    ("case", "name", "images"),
    [
        ("suffix", "folders", 40),
        ("good-without-mask", "folders", 40),
        ("labelme", "labelme", 5),
        ("severstal", "severstal", 5),
    ],
)
def test_layouts_of_public_sets(case: str, name: str, images: int) -> None:
    root = CASES / "21-layouts-of-public-sets"
    layout = find_layout(root / case / "src", no_mask_is_background=case == "good-without-mask")
    assert (layout.name, layout.problems, len(layout.pairs)) == (name, [], images)
    config = load_config(root / "c.toml")
    shown = sum(examine(pair, config).pixels[1:].sum() > 0 for pair in layout.pairs)
    # The files of labelme there have no shapes.
    assert shown > 0 or name == "labelme"


# In a process of its own, whose peak memory is that of reading; importing takes most of it.
SCRIPT = """
import sys
from pathlib import Path
from benchmarks.memory import peak_mebibytes
from flexunet.core.config.load import load_config
from flexunet.dataset.examine import examine
from flexunet.dataset.layouts.detect import find_layout

layout = find_layout(Path(sys.argv[1]))
assert not layout.problems, layout.problems[:3]
config = load_config("demo")
pixels = sum(examine(pair, config).pixels for pair in layout.pairs)
print(len(layout.pairs), int(pixels[1:].sum()), peak_mebibytes())
"""


SIDE = 64


def many_instances(root: Path, images: int, of_each: int) -> Path:
    """A COCO source of many polygons of 40 points, and one image file under many names."""
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    generator = np.random.default_rng(0)
    sources.save(root / "images/0.png", np.zeros((SIDE, SIDE, 3), np.uint8))
    document: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "patches"}]}
    for number in range(images):
        if number:
            (root / f"images/{number}.png").symlink_to(root / "images/0.png")
        document["images"].append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
        for _ in range(of_each):
            points = SIDE * (generator.uniform(0.08, 0.92, 2) + generator.uniform(0.012, 0.06) * ring)
            document["annotations"].append(
                {"image_id": number, "category_id": 1, "segmentation": [points.round(2).ravel().tolist()]}
            )
    (root / "instances.json").write_text(json.dumps(document))
    return root


def test_memory_does_not_follow_the_number_of_instances(tmp_path: Path) -> None:
    peaks = []
    for images in (125, 500):
        root = many_instances(tmp_path / str(images), images, of_each=40)
        command = [sys.executable, "-c", SCRIPT, str(root)]
        found, pixels, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        assert int(found) == images and int(pixels) > 0.05 * SIDE**2 * images
        peaks.append(float(peak))
    assert peaks[1] < 1.3 * peaks[0]
