"""Images and masks are paired by path and stem, never by the order of two listings; what has no partner is named."""

from pathlib import Path
from unicodedata import normalize

import pytest

from flexunet.dataset.layouts.detect import find_layout
from flexunet.dataset.layouts.interface import Layout


def source_of(directory: Path, *names: str) -> Path:
    """A folder with these files, all empty: pairing reads names only."""
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).touch()
    return directory


def relative(layout: Layout, source: Path) -> list[tuple[str, str, str, str | None]]:
    return [
        (p.id, p.image.relative_to(source).as_posix(), p.mask.relative_to(source).as_posix(), p.split)
        for p in layout.pairs
    ]


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        pytest.param(
            ["images/a.png", "images/b.png", "masks/a.png", "masks/b.png"],
            [("a", "images/a.png", "masks/a.png", None), ("b", "images/b.png", "masks/b.png", None)],
            id="images and masks",
        ),
        pytest.param(
            ["annotations/a.png", "images/a.jpg"],
            [("a", "images/a.jpg", "annotations/a.png", None)],
            id="images and annotations",
        ),
        pytest.param(
            [f"{split}/{role}/x.png" for split in ("train", "valid", "test") for role in ("images", "masks")],
            [
                ("test/x", "test/images/x.png", "test/masks/x.png", "test"),
                ("train/x", "train/images/x.png", "train/masks/x.png", "train"),
                ("valid/x", "valid/images/x.png", "valid/masks/x.png", "eval"),
            ],
            id="splits above the roles",
        ),
        pytest.param(
            [f"{role}/{split}/x.{suffix}"
             for role, suffix in (("images", "jpg"), ("annotations", "png")) for split in ("training", "test")],
            [
                ("test/x", "images/test/x.jpg", "annotations/test/x.png", "test"),
                ("training/x", "images/training/x.jpg", "annotations/training/x.png", "train"),
            ],
            id="splits below the roles",
        ),
        pytest.param(
            ["images/lot1/a.png", "masks/lot1/a.png", "images/lot2/a.png", "masks/lot2/a.png"],
            [
                ("lot1/a", "images/lot1/a.png", "masks/lot1/a.png", None),
                ("lot2/a", "images/lot2/a.png", "masks/lot2/a.png", None),
            ],
            id="equal stems in other folders",
        ),
        pytest.param(
            ["images/10.bmp", "images/9.jpeg", "images/a.png", "images/a-1.JPG",
             "masks/a.tif", "masks/a-1.png", "masks/9.webp", "masks/10.TIFF"],
            [
                ("10", "images/10.bmp", "masks/10.TIFF", None),
                ("9", "images/9.jpeg", "masks/9.webp", None),
                ("a", "images/a.png", "masks/a.tif", None),
                ("a-1", "images/a-1.JPG", "masks/a-1.png", None),
            ],
            id="every suffix, in any case",
        ),
        pytest.param(
            ["images/a.png", "images/Thumbs.db", "images/.DS_Store", "images/notes.txt", "masks/a.png", "masks/a.json",
             "README.md", "preview.png"],
            [("a", "images/a.png", "masks/a.png", None)],
            id="what is no image or in no role folder is not looked at",
        ),
        pytest.param(
            ["raw/a.jfif", "raw/lot/b.jpe", "masks/a.png", "masks/lot/b.png"],
            [("a", "raw/a.jfif", "masks/a.png", None), ("lot/b", "raw/lot/b.jpe", "masks/lot/b.png", None)],
            id="raw images, with JPEG's other suffixes",
        ),
        pytest.param(
            # Sorted by name the images are a.bmp, a.c.bmp but the masks a.c.png, a.png.
            ["images/a.bmp", "images/a.c.bmp", "masks/a.png", "masks/a.c.png"],
            [("a", "images/a.bmp", "masks/a.png", None), ("a.c", "images/a.c.bmp", "masks/a.c.png", None)],
            id="sorted names in another order",
        ),
    ],
)  # fmt: skip
def test_layouts(tmp_path: Path, names: list[str], pairs: list[tuple[str, str, str, str | None]]):
    layout = find_layout(source_of(tmp_path, *names))
    assert relative(layout, tmp_path) == pairs
    assert layout.problems == []
    assert layout.has_splits == any(split for *_, split in pairs)


def test_pairs_do_not_shift_where_one_mask_is_missing(tmp_path: Path):
    names = [f"images/{i:02}.jpg" for i in range(10)] + [f"masks/{i:02}.png" for i in range(1, 11)]
    layout = find_layout(source_of(tmp_path, *names))
    assert [(p.image.stem, p.mask.stem) for p in layout.pairs] == [(f"{i:02}", f"{i:02}") for i in range(1, 10)]
    assert [p.where.name for p in layout.problems] == ["00.jpg", "10.png"]


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        *[(name, "train") for name in ("train", "training")],
        *[(name, "eval") for name in ("valid", "validation", "val", "eval")],
        *[(name, "test") for name in ("test", "testing")],
        ("trainer", None),
    ],
)
@pytest.mark.parametrize("shape", ["{split}/{role}/a.png", "{role}/{split}/a.png", "lot/{split}/x/{role}/y/a.png"])
def test_split_names(tmp_path: Path, folder: str, split: str | None, shape: str):
    names = [shape.format(split=folder, role=role) for role in ("images", "masks")]
    layout = find_layout(source_of(tmp_path, *names))
    assert [pair.split for pair in layout.pairs] == [split]


def test_a_file_name_or_the_source_itself_is_no_split(tmp_path: Path):
    source = source_of(tmp_path / "train", "images/test.png", "masks/test.png")
    assert [pair.split for pair in find_layout(source).pairs] == [None]


def test_an_image_is_not_paired_across_splits(tmp_path: Path):
    layout = find_layout(source_of(tmp_path, "train/images/a.png", "test/masks/a.png"))
    assert layout.pairs == []
    assert [problem.what for problem in layout.problems] == ["1 masks and 1 images, none with the same path and stem"]


def test_orphans_on_both_sides(tmp_path: Path):
    names = ["images/a.png", "images/only.jpg", "images/too.png", "masks/a.png", "masks/stray.png"]
    layout = find_layout(source_of(tmp_path, *names))
    assert [pair.id for pair in layout.pairs] == ["a"]
    assert [str(problem) for problem in layout.problems] == [
        f"{tmp_path}/images/only.jpg: image without a mask; expected a mask with the same path and stem: "
        "add it, remove this image, or use --no-mask-is-background if such images show no defect",
        f"{tmp_path}/images/too.png: image without a mask; expected a mask with the same path and stem: "
        "add it, remove this image, or use --no-mask-is-background if such images show no defect",
        f"{tmp_path}/masks/stray.png: mask without an image; expected an image with the same path and stem: "
        "add it or remove this mask",
    ]


@pytest.mark.parametrize(
    ("names", "file", "what"),
    [
        (["images/a.jpg", "images/a.png", "masks/a.png"], "images/a.jpg", "2 images for a: a.jpg, a.png"),
        (["images/a.png", "masks/a.bmp", "masks/a.png"], "masks/a.bmp", "2 masks for a: a.bmp, a.png"),
    ],
)
def test_duplicate_stems(tmp_path: Path, names: list[str], file: str, what: str):
    (problem,) = find_layout(source_of(tmp_path, *names)).problems
    assert problem.where == tmp_path / file
    assert problem.what == what
    assert problem.expected
    assert problem.repair


@pytest.mark.parametrize("names", [["annotations/a.png", "masks/a.png"], ["masks/a.png", "annotations/a.tif"]])
def test_masks_and_annotations_together_are_duplicates(tmp_path: Path, names: list[str]):
    (problem,) = find_layout(source_of(tmp_path, "images/a.png", *names)).problems
    assert problem.what.startswith("2 masks for a")


def test_missing_folder(tmp_path: Path):
    layout = find_layout(tmp_path / "nowhere")
    assert layout.pairs == []
    assert [(p.where, p.what) for p in layout.problems] == [(tmp_path / "nowhere", "no such folder")]


@pytest.mark.parametrize("folders", [[], ["images", "masks"], ["train/images", "train/masks"], ["photos"]])
def test_empty_folders(tmp_path: Path, folders: list[str]):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    layout = find_layout(tmp_path)
    assert layout.pairs == []
    assert [(p.where, p.what) for p in layout.problems] == [(tmp_path, "no images found")]
    assert "SOURCE/images/a.png and SOURCE/masks/a.png" in layout.problems[0].expected


def test_files_that_are_no_images_are_told(tmp_path: Path):
    """Photos of a telephone, a file without a suffix, and what an archiver of a Mac has left."""
    source_of(tmp_path, "images/a.heic", "images/b.HEIC", "masks/README", "images/._a.png")
    [problem] = find_layout(tmp_path).problems
    assert problem.what == (
        "no images found among 2 .heic, 1 without a suffix; left out 1 of 1 files: 1 hidden (such as images/._a.png)"
    )
    assert "convert them to one of .bmp, .gif, .jfif, .jpe, .jpeg, .jpg, .png" in problem.repair


def test_folders_may_be_links(tmp_path: Path):
    source_of(tmp_path, "disk/photos/a.png", "source/masks/a.png")
    (tmp_path / "source/images").symlink_to(tmp_path / "disk/photos")
    layout = find_layout(tmp_path / "source")
    assert [pair.id for pair in layout.pairs] == ["a"]
    assert layout.problems == []


def test_names_are_compared_in_their_composed_form(tmp_path: Path):
    names = [f"images/{normalize('NFD', 'Käfig')}.png", f"masks/{normalize('NFC', 'Käfig')}.png"]
    assert [pair.id for pair in find_layout(source_of(tmp_path, *names)).pairs] == [normalize("NFC", "Käfig")]


def test_folders_and_splits_are_known_in_any_case(tmp_path: Path):
    names = [f"{split}/{role}/{split}.png" for split in ("Train", "VALID", "Test") for role in ("Images", "Masks")]
    layout = find_layout(source_of(tmp_path, *names))
    assert {pair.id: pair.split for pair in layout.pairs} == {
        "test/Test": "test",
        "train/Train": "train",
        "valid/VALID": "eval",
    }


def test_every_file_is_read_or_counted(tmp_path: Path):
    names = ["images/a.png", "masks/a.png", "images/orphan.png", "images/Thumbs.db", "README.md", "preview.png"]
    layout = find_layout(source_of(tmp_path, *names, "images/.ipynb_checkpoints/a-checkpoint.png", "masks/._a.png"))
    assert layout.files_read == 3
    assert {entry.why: (entry.files, entry.example) for entry in layout.left_out} == {
        "in hidden folders": (1, "images/.ipynb_checkpoints/a-checkpoint.png"),
        "hidden": (1, "masks/._a.png"),
        "with the suffix .md": (1, "README.md"),
        "with the suffix .db": (1, "images/Thumbs.db"),
        "images that do not belong to this layout": (1, "preview.png"),
    }


def test_several_folders_without_a_split_are_told(tmp_path: Path):
    names = [f"{lot}/{role}/{lot}.png" for lot in ("fold1", "fold2") for role in ("images", "masks")]
    (note,) = find_layout(source_of(tmp_path, *names)).notes
    assert note.startswith("2 folders (fold1, fold2), none of which names a split")
    assert find_layout(source_of(tmp_path / "fold1")).notes == ()


def test_a_file_is_no_folder_of_images(tmp_path: Path):
    source_of(tmp_path, "a.png")
    assert [p.what for p in find_layout(tmp_path / "a.png").problems] == ["not a folder"]
