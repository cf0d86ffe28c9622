"""A config for a source by looking at it: what it writes is what ingest takes, and what it cannot know it says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import layout_sources as sources
import numpy as np
import pytest
from command_line import exit_code
from picture_files import exif
from PIL import Image, ImageFilter

from flexunet.core.config.load import load_config
from flexunet.core.config.whole import Config
from flexunet.core.errors import UserError
from flexunet.core.finder import find_files
from flexunet.dataset.annotation import plain_name
from flexunet.dataset.describe import COLORS, describe, write_toml
from flexunet.dataset.examine import examine
from flexunet.dataset.layouts.detect import find_layout
from flexunet.dataset.layouts.interface import Source
from flexunet.dataset.synthetic import generate_surface


@pytest.fixture(scope="module")
def surfaces() -> sources.Surfaces:
    return {f"steel-{index:05d}": generate_surface(5, index, 48) for index in range(1, 7)}


def described(root: Path, target: Path) -> Config:
    """The config that is written for a source."""
    target.write_text(write_toml(describe(Source(find_files(root))), root))
    return load_config(target)


NAMED: dict[str, tuple[Callable[[Path, sources.Surfaces], None], tuple[str, ...]]] = {
    "COCO": (sources.coco(sources.as_polygons), sources.NAMES),
    "labelme": (sources.labelme("{}.png", "{}.json"), sources.NAMES),
    "YOLO": (sources.yolo, sources.NAMES),
    "a folder per class": (sources.class_masks("masks/{1}/{0}.png"), sources.NAMES),
    "VOC": (sources.voc, sources.NAMES),
    "Severstal": (sources.severstal, ("background", "defect 1", "defect 2", "defect 3")),
    "one-hot": (sources.npz(sources.one_hot), ("background", "class1", "class2", "class3")),
    "ids in archives": (sources.npz(lambda ids: ids), ("background", "class1", "class2", "class3")),
    "colours": (
        sources.folders("images/{}.png", "masks/{}.png"),
        ("background", "color-0-0-255", "color-0-255-0", "color-255-0-0"),
    ),
}


@pytest.mark.parametrize("kind", NAMED)
def test_every_source_can_be_ingested_with_what_was_written(
    surfaces: sources.Surfaces, tmp_path: Path, kind: str
) -> None:
    write, names = NAMED[kind]
    write(tmp_path / "src", surfaces)
    config = described(tmp_path / "src", tmp_path / "mine.toml")
    assert tuple(c.name for c in config.classes) == names
    assert (config.image.height, config.image.width, config.image.fit) == (48, 48, "stretch")
    facts = {pair.id: examine(pair, config) for pair in find_layout(tmp_path / "src").pairs}
    for stem, (_, class_ids) in surfaces.items():
        assert facts[stem].pixels.tolist() == np.bincount(class_ids.ravel(), minlength=4).tolist()


def grey(levels: dict[int, int]) -> Callable[[Path, sources.Surfaces], None]:
    """Masks in grey: `levels` of the class ids."""
    table = np.array([levels.get(i, 0) for i in range(256)], np.uint8)

    def write(root: Path, surfaces: sources.Surfaces) -> None:
        sources.images(root, surfaces)
        for stem, (_, class_ids) in surfaces.items():
            sources.save(root / f"masks/{stem}.png", table[class_ids])

    return write


@pytest.mark.parametrize(
    ("levels", "names", "ignore"),
    [
        ({1: 1, 2: 2, 3: 3}, ["class1", "class2", "class3"], None),
        ({1: 1, 2: 2, 3: 255}, ["class1", "class2"], (255, 255, 255)),
        ({1: 255, 2: 255, 3: 255}, ["defect"], None),
        ({1: 60, 2: 120, 3: 240}, ["grey60", "grey120", "grey240"], None),
    ],
)
@pytest.mark.parametrize("step", [1, 257])
def test_grey_masks(
    surfaces: sources.Surfaces, tmp_path: Path, levels: dict[int, int], names: list[str], ignore: Any, step: int
) -> None:
    """Of 8 bits, and of 16, which hold each level 257 times."""
    grey(levels)(tmp_path / "src", surfaces)
    for file in (tmp_path / "src/masks").iterdir():
        sources.save(file, np.asarray(Image.open(file)).astype(np.uint16 if step > 1 else np.uint8) * step)
    config = described(tmp_path / "src", tmp_path / "mine.toml")
    assert [c.name for c in config.classes[1:]] == names
    assert config.records.ignore_color == ignore


def test_masks_of_numbers_that_no_class_can_have_are_named(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    sources.images(tmp_path, surfaces)
    for stem, (_, class_ids) in surfaces.items():
        sources.save(tmp_path / f"masks/{stem}.png", class_ids.astype(np.uint16) * 300)
    with pytest.raises(UserError, match=r"png: has the grey levels 0 to [69]00; expected a mask of 8 bits"):
        describe(Source(find_files(tmp_path)))


def test_the_void_of_voc_is_unlabelled(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    sources.images(tmp_path / "src", surfaces)
    for stem, (_, class_ids) in surfaces.items():
        mask = sources.COLORS[class_ids]
        mask[:3] = (224, 224, 192)
        sources.save(tmp_path / f"src/masks/{stem}.png", mask)
    config = described(tmp_path / "src", tmp_path / "mine.toml")
    assert config.records.ignore_color == (224, 224, 192) and len(config.classes) == 4


def test_a_grey_palette_shows_ids(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    """GIF knows no other grey."""
    sources.images(tmp_path / "src", surfaces)
    for stem, (_, class_ids) in surfaces.items():
        sources.save(tmp_path / f"src/masks/{stem}.gif", class_ids)
    config = described(tmp_path / "src", tmp_path / "mine.toml")
    assert [c.name for c in config.classes] == ["background", "class1", "class2", "class3"]
    for pair in find_layout(tmp_path / "src").pairs:
        counts = np.bincount(surfaces[pair.id][1].ravel(), minlength=4)
        assert examine(pair, config).pixels.tolist() == counts.tolist()


def test_smoothed_rims_are_no_classes(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    sources.images(tmp_path / "src", surfaces)
    for number, (stem, (_, class_ids)) in enumerate(surfaces.items()):
        mask = sources.COLORS[class_ids]
        mask[0, :10] = [(number, i, 7) for i in range(10)]
        sources.save(tmp_path / f"src/masks/{stem}.png", mask)
    found = describe(Source(find_files(tmp_path / "src")))
    assert [c.color for c in found.classes] == [(0, 0, 255), (0, 255, 0), (255, 0, 0)]
    assert any(sentence.startswith("what 60 rarer colours (0.43% of the pixels) are") for sentence in found.unknown)


@pytest.mark.parametrize(("blur", "mode", "suffix"), [(1, "L", "png"), (0, "L", "jpg"), (0, "RGB", "jpg")])
def test_smoothed_grey_masks_are_one_class_that_a_level_divides(
    surfaces: sources.Surfaces, tmp_path: Path, blur: int, mode: str, suffix: str
) -> None:
    """JPEG smooths too, and Kvasir-SEG's masks have three channels."""
    sources.images(tmp_path / "src", surfaces)
    for stem, (_, class_ids) in surfaces.items():
        mask = Image.fromarray((class_ids > 0).astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(blur))
        sources.save(tmp_path / f"src/masks/{stem}.{suffix}", np.asarray(mask.convert(mode)))
    config = described(tmp_path / "src", tmp_path / "mine.toml")
    assert [c.name for c in config.classes] == ["background", "defect"] and config.records.grey_threshold == 128
    assert "# levels from here on are the defect" in (tmp_path / "mine.toml").read_text()
    layout = find_layout(tmp_path / "src")
    shares = [1 - examine(pair, config).pixels[0] / 48**2 for pair in layout.pairs]
    assert shares == pytest.approx([(surfaces[pair.id][1] > 0).mean() for pair in layout.pairs], abs=0.05)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(200, 200)] * 5, (208, 208, "stretch")),
        ([(1600, 256)] * 5, (256, 256, "tile")),
        ([(4000, 3000)] * 5, (384, 512, "stretch")),
        ([(300, 200), (200, 300), (250, 250)], (256, 256, "pad")),
        ([(9, 9)], (16, 16, "stretch")),
    ],
)
def test_the_models_image(tmp_path: Path, sizes: list[tuple[int, int]], expected: tuple[int, int, str]) -> None:
    for number, (width, height) in enumerate(sizes):
        sources.save(tmp_path / f"src/images/{number}.png", np.zeros((height, width, 3), np.uint8))
        sources.save(tmp_path / f"src/masks/{number}.png", np.ones((height, width), np.uint8))
    image = described(tmp_path / "src", tmp_path / "mine.toml").image
    assert (image.height, image.width, image.fit) == expected


def test_a_background_that_a_source_names_is_the_first_class(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    """Whatever its spelling, colour and mask."""
    sources.class_masks("masks/{1}/{0}.png")(tmp_path / "masks", surfaces)
    sources.yolo(tmp_path / "yolo", surfaces)
    (tmp_path / "yolo/data.yaml").write_text("names: [inclusion, patches, scratches, Background]\n")
    sources.voc(tmp_path / "voc", surfaces)
    for mask in (tmp_path / "voc/SegmentationClass").iterdir():
        rgb = np.array(Image.open(mask).convert("RGB"))
        rgb[~rgb.any(axis=-1)] = 255
        sources.save(mask, rgb)
    labelmap = tmp_path / "voc/labelmap.txt"
    labelmap.write_text(labelmap.read_text().replace("background:0,0,0", "background:255,255,255"))
    for stem, (_, class_ids) in surfaces.items():
        sources.save(tmp_path / f"masks/masks/Background/{stem}.png", np.uint8(255) * (class_ids == 0))
    for kind, name in (("masks", "Background"), ("yolo", "Background"), ("voc", "background")):
        config = described(tmp_path / kind, tmp_path / f"{kind}.toml")
        assert tuple(c.name for c in config.classes) == (name, *sources.NAMES[1:])
        for pair in find_layout(tmp_path / kind).pairs:
            counts = np.bincount(surfaces[pair.id][1].ravel(), minlength=4)
            assert examine(pair, config).pixels.tolist() == counts.tolist()


def test_slips_in_names_are_one_class_or_asked_for(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    sources.labelme("{}.png", "{}.json")(tmp_path / "src", surfaces)
    for name, slip in (("steel-00001", "patches "), ("steel-00002", "Patches")):
        file = tmp_path / f"src/{name}.json"
        file.write_text(file.read_text().replace('"scratches"', f'"{slip}"').replace('"inclusion"', f'"{slip}"'))
    found = describe(Source(find_files(tmp_path / "src")))
    names = [c.name for c in found.classes]
    assert names.count("patches") == 1 and not any(name.endswith(" ") for name in names)
    assert ("whether Patches and patches are one class" in found.unknown) == ("Patches" in names)
    config = described(tmp_path / "src", tmp_path / "mine.toml")
    assert all(examine(pair, config).pixels.sum() == 48**2 for pair in find_layout(tmp_path / "src").pairs)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_masks_in_color_of_lossy_compression_tell_no_classes(
    surfaces: sources.Surfaces, tmp_path: Path, suffix: str
) -> None:
    """An empty one among them is black, and no grey level."""
    for index, (stem, (image, class_ids)) in enumerate(surfaces.items()):
        sources.save(tmp_path / f"images/{stem}.png", image)
        sources.save(tmp_path / f"masks/{stem}.{suffix}", sources.COLORS[np.maximum(class_ids, 1) * bool(index)])
    with pytest.raises(UserError, match=r"a mask in colour of lossy compression; expected a lossless format"):
        describe(Source(find_files(tmp_path)))
    (tmp_path / f"masks/steel-00001.{suffix}").unlink()
    sources.save(tmp_path / "masks/steel-00001.png", sources.COLORS[surfaces["steel-00001"][1]])
    found = describe(Source(find_files(tmp_path)))
    assert {c.color for c in found.classes} <= {*map(tuple, sources.COLORS.tolist())}
    assert any(sentence.startswith("what 5 masks in colour of lossy compression show") for sentence in found.unknown)


def test_a_mask_that_is_no_picture_is_left_to_ingest(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    """As for an image; and a palette of black alone, an empty mask, makes no source of two kinds of masks."""
    sources.folders("images/{}.png", "masks/{}.png")(tmp_path, surfaces)
    (tmp_path / "masks/steel-00001.png").write_bytes(b"")
    empty = Image.new("P", (48, 48))
    empty.putpalette(sources.COLORS.tobytes())
    empty.save(tmp_path / "masks/steel-00002.png")
    found = describe(Source(find_files(tmp_path)))
    assert len(found.classes) == 3 and not any("grey levels" in sentence for sentence in found.unknown)
    assert "what 1 masks show that cannot be read: ingest refuses them" in found.unknown
    for mask in (tmp_path / "masks").iterdir():
        mask.write_bytes(b"")
    with pytest.raises(UserError, match=r"png: cannot be read"):
        describe(Source(find_files(tmp_path)))


def test_a_damaged_archive_is_named(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    sources.npz(sources.one_hot)(tmp_path, surfaces)
    (tmp_path / "masks/steel-00001.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match=r"steel-00001\.npz: cannot be read \(File is not a zip file\)"):
        describe(Source(find_files(tmp_path)))


Objects = list[list[int]]
# The numbers of squares in each mask: of objects, which count, and of classes.
COUNTED: Objects = [[*range(1, 1 + count)] for count in (2, 3, 1, 5, 0, 4, 2, 6)]
HONEST: dict[str, Objects] = {
    "a rare class": [[1], [1, 2], [1, 2], [2], [1, 2, 3], [1], [1, 2], [2], [1, 2]],
    "few images": COUNTED[:5],
    "each in every image": [[1, 2, 3]] * 8,
    "one within the other": [[1], [1, 2], [1, 2]] * 4,
    "in several places": [[*numbers, *numbers] for numbers in COUNTED],
    "as CamVid's": [[1, 4, 9], [1, 4], [4, 9, 11], [1, 9], [4, 11], [1, 11], [9, 11]],
}


def squares(numbers: list[int]) -> Any:
    """A mask with a square for each of the numbers."""
    mask = np.zeros((48, 48), np.uint8)
    for place, number in enumerate(numbers):
        row, column = divmod(place, 4)
        mask[2 + 12 * row : 10 + 12 * row, 2 + 12 * column : 10 + 12 * column] = number
    return mask


def save_squares(root: Path, masks: Objects, kind: str) -> None:
    """As grey levels, in 16 bits, as indices of a palette of colours, or each in a colour that occurs nowhere else."""
    colors = np.random.default_rng(5).permutation(200)[:, np.newaxis] + [1, 20, 50]
    colors[0] = 0
    before = 0
    for index, numbers in enumerate(masks):
        sources.save(root / f"images/{index}.png", np.full((48, 48, 3), index, np.uint8))
        file, mask = root / f"masks/{index}.png", squares(numbers)
        if kind == "palette":
            picture = Image.fromarray(mask, "P")
            picture.putpalette(colors.astype(np.uint8).tobytes())
            file.parent.mkdir(exist_ok=True)
            picture.save(file)
        elif kind == "colours":
            sources.save(file, colors[np.where(mask > 0, mask + before, 0)].astype(np.uint8))
        else:
            sources.save(file, mask.astype(np.uint16 if kind == "16 bits" else np.uint8))
        before += max(numbers, default=0)


def test_numbers_of_objects_are_one_class(tmp_path: Path, capfd: Any) -> None:
    save_squares(tmp_path / "src", COUNTED, "grey")
    assert exit_code("init", tmp_path / "src", "--out", tmp_path / "mine.toml") == 0
    printed = capfd.readouterr().out
    assert "classes: defect\n" in printed and "only you know: whether the numbers 1 to 6 count objects" in printed
    config = load_config(tmp_path / "mine.toml")
    for pair in find_layout(tmp_path / "src").pairs:
        assert examine(pair, config).pixels[1] == 64 * len(COUNTED[int(pair.id)])


@pytest.mark.parametrize("kind", ["16 bits", "palette", "colours"])
def test_objects_that_no_reader_takes_as_one_class_are_asked_for(tmp_path: Path, kind: str) -> None:
    save_squares(tmp_path, COUNTED, kind)
    found = describe(Source(find_files(tmp_path)))
    [sentence] = [s for s in found.unknown if s.startswith("whether these are classes: ")]
    assert ("run from 1 on without a gap" in sentence) == (kind != "colours")
    assert ("23 of 23 are in one mask alone" in sentence) == (kind == "colours")


def test_a_number_that_one_mask_alone_has_is_asked_for(tmp_path: Path) -> None:
    """As where objects are counted through all images."""
    save_squares(tmp_path, [[1, 2], [3], [4, 5, 6], [7], [8, 9], [10]], "grey")
    found = describe(Source(find_files(tmp_path)))
    assert len(found.classes) == 10
    assert any("whether these are classes: 10 of 10 are in one mask alone" in sentence for sentence in found.unknown)


@pytest.mark.parametrize("case", HONEST)
@pytest.mark.parametrize("kind", ["grey", "palette"])
def test_numbers_of_classes_are_classes(tmp_path: Path, case: str, kind: str) -> None:
    save_squares(tmp_path, HONEST[case], kind)
    found = describe(Source(find_files(tmp_path)))
    highest = max(max(numbers, default=0) for numbers in HONEST[case])
    shown = {number for numbers in HONEST[case] for number in numbers}
    assert len(found.classes) == (highest if kind == "grey" else len(shown)) and found.grey_threshold is None
    assert not any("objects" in sentence for sentence in found.unknown)


def test_masks_of_one_name_are_told_apart(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    for camera in ("left", "right"):
        sources.folders(f"images/{camera}/{{}}.png", f"masks/{camera}/{{}}.png")(tmp_path, surfaces)
    sources.save(tmp_path / "masks/right/steel-00001.png", np.uint16(300) * surfaces["steel-00001"][1])
    with pytest.raises(UserError, match=r"masks/right/steel-00001\.png: has the grey levels"):
        describe(Source(find_files(tmp_path)))


def test_images_that_exif_turns_count_upright(tmp_path: Path) -> None:
    sources.save(tmp_path / "src/images/a.jpg", np.zeros((64, 96, 3), np.uint8), exif=b"Exif\0\0" + exif(6))
    sources.save(tmp_path / "src/masks/a.png", np.ones((96, 64), np.uint8))
    image = described(tmp_path / "src", tmp_path / "mine.toml").image
    assert (image.height, image.width) == (96, 64)


def test_names_that_a_config_cannot_hold_are_found_again(surfaces: sources.Surfaces, tmp_path: Path) -> None:
    sources.labelme("{}.png", "{}.json")(tmp_path / "src", surfaces)
    for file in (tmp_path / "src").glob("*.json"):
        file.write_text(file.read_text().replace('"scratches"', '" Kratzer (u\\u0308)\\t#1/2"'))
    config = described(tmp_path / "src", tmp_path / "mine.toml")
    assert config.classes[1].name == plain_name(" Kratzer (u\u0308)\t#1/2") == "Kratzer (ü) #1/2"
    facts = [examine(pair, config) for pair in find_layout(tmp_path / "src").pairs]
    assert sum(f.pixels[1] for f in facts) == sum((ids == 3).sum() for _, ids in surfaces.values())


def test_colors_can_be_told_apart() -> None:
    assert len(set(COLORS)) == len(COLORS) == 16
    distances = [np.abs(np.subtract(a, b)).sum() for a in COLORS for b in COLORS if a != b]
    assert min(distances) > 60


def test_the_command(surfaces: sources.Surfaces, tmp_path: Path, capfd: Any) -> None:
    sources.yolo(tmp_path / "src", surfaces)
    assert exit_code("init", tmp_path / "src", "--out", tmp_path / "mine.toml") == 0
    assert "layout yolo: images in images; masks in labels" in capfd.readouterr().out
    assert (tmp_path / "mine.toml").read_text().startswith(f"# Written by `flexunet init {tmp_path}/src`.\n")
    assert exit_code("init", tmp_path / "src", "--out", tmp_path / "mine.toml") == 1
    assert "is there already" in capfd.readouterr().err
    for source in ("nowhere", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert exit_code("init", tmp_path / source, "--out", tmp_path / "other.toml") == 1
        (error,) = capfd.readouterr().err.splitlines()
        assert "expected" in error and not (tmp_path / "other.toml").exists()
