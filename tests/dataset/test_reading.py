"""What an ingest says of how files were read: turned, converted, flat, interpolated, moved; and refuses aloud."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_files import exif, lossless_jpeg, png, png_chunk, with_app1
from pictures import encoded
from PIL import Image

from flexunet.core.config.load import config_from
from flexunet.core.problems import DataError
from flexunet.dataset.ingest import ingest

SIDE = 48
CLASSES = [
    {"name": "background", "color": [0, 0, 0]},
    {"name": "scratch", "color": [255, 0, 0]},
    {"name": "crack", "color": [0, 0, 255]},
]
COLORS = np.array([c["color"] for c in CLASSES], np.uint8)


def config(**image: Any) -> Any:
    values = {"classes": CLASSES, "image": {"height": 32, "width": 32, **image}, "model": {"num_layers": 2}}
    return config_from(values, "test")


def surfaces(count: int, seed: int = 0, height: int = SIDE, width: int = SIDE) -> Any:
    """Grey levels and class ids, uint8 `[h, w]` both, of images that are no near-duplicates."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        coarse = Image.fromarray(generator.integers(60, 200, (7, 7)).astype(np.uint8))
        ids = np.zeros((height, width), np.uint8)
        ids[5:9, 6:30], ids[20:30, 15:19] = 1, 2
        ids[5, 6] = 0
        yield np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)), ids


def write(folder: Path, images: dict[str, bytes | np.ndarray], masks: dict[str, np.ndarray]) -> None:
    for role, files in (("images", images), ("masks", masks)):
        (folder / role).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            if isinstance(content, bytes):
                (folder / role / name).write_bytes(content)
            else:
                Image.fromarray(content).save(folder / role / name)


def source(folder: Path, change: Any = lambda grey: grey, suffix: str = "png", **options: Any) -> Path:
    pairs = list(surfaces(24, **options))
    images = {f"{index:02d}.{suffix}": change(grey) for index, (grey, _) in enumerate(pairs)}
    write(folder, images, {f"{index:02d}.png": COLORS[ids] for index, (_, ids) in enumerate(pairs)})
    return folder


def manifest(folder: Path, settings: Any = None, **options: Any) -> dict[str, Any]:
    return ingest(folder, folder.parent / "records", settings or config(), check_only=True, **options).manifest


def test_nothing_is_said_of_plain_images(tmp_path: Path):
    found = manifest(source(tmp_path / "src"))
    assert found["read"]["turned"] == 0 and found["read"]["converted"] == {}
    assert (found["read"]["words"], found["warnings"]) == ([], [])


def jpeg_turned(orientation: int) -> Any:
    """A photograph as a camera that was held otherwise stores it."""

    def change(grey: np.ndarray) -> bytes:
        import io

        stored = {1: grey, 6: np.rot90(grey), 3: grey[::-1, ::-1]}[orientation]
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(stored)).save(buffer, "JPEG", quality=95)
        return with_app1(buffer.getvalue(), b"Exif\0\0" + exif(orientation))

    return change


def test_turned_images_are_counted(tmp_path: Path):
    found = manifest(source(tmp_path / "src", jpeg_turned(6), "jpg", height=40))
    assert found["read"]["turned"] == 24
    assert found["read"]["words"] == [
        "24 of 24 images were turned upright, as EXIF says; a served model turns them too"
    ]
    assert found["warnings"] == []
    assert found["median_size"] == [40, SIDE]


def test_a_mask_drawn_on_the_stored_pixels_is_refused(tmp_path: Path):
    folder = source(tmp_path / "src", jpeg_turned(6), "jpg", height=40)
    for mask in (folder / "masks").glob("*.png"):
        Image.open(mask).transpose(Image.Transpose.ROTATE_90).save(mask)
    with pytest.raises(DataError, match=r"when EXIF has turned it \(orientation 6\).*draw the mask on the upright"):
        manifest(folder)


@pytest.mark.parametrize("orientation", [3, 6])
def test_where_the_size_does_not_tell_how_a_mask_was_drawn_there_is_a_warning(tmp_path: Path, orientation: int):
    [warning] = manifest(source(tmp_path / "src", jpeg_turned(orientation), "jpg"))["warnings"]
    assert warning.startswith("EXIF turns 24 images and not their masks, or otherwise (00, 01, 02, ...)")


def test_a_mask_that_exif_turns_beside_an_upright_image_is_doubted(tmp_path: Path):
    """Tools turn the pixels and copy the tag to one of the files."""
    folder = source(tmp_path / "src", height=40)
    for mask in sorted((folder / "masks").iterdir())[:2]:
        Image.open(mask).save(mask, exif=b"Exif\0\0" + exif(3))
    [warning] = manifest(folder)["warnings"]
    assert warning.startswith("EXIF turns 2 images and not their masks, or otherwise (00, 01)")


def test_lossless_jpegs_are_converted_and_counted(tmp_path: Path):
    found = manifest(source(tmp_path / "src", lossless_jpeg, "jpg"))
    assert found["read"]["converted"] == {"lossless JPEG": 24}
    assert found["read"]["words"] == [
        "24 of 24 images were converted to PNG: 24 lossless JPEG; `flexunet predict` does the same"
    ]


DEEP = {
    "float 0 to 1": (lambda grey: (grey / 255).astype(np.float32), [0, 1], "a picture of floats, with values from "),
    "int32": (lambda grey: grey.astype(np.int32), [0, 255], "a picture of large or signed integers, with values"),
    "12 bits": (lambda grey: grey.astype(np.uint16) * 16, [0, 4095], "a picture of 16 bits without a value above"),
}


@pytest.mark.parametrize("name", DEEP)
def test_a_range_that_no_file_tells_is_asked_for(tmp_path: Path, name: str):
    change, value_range, words = DEEP[name]
    folder = source(tmp_path / "src", change, "tif")
    with pytest.raises(DataError) as caught:
        manifest(folder)
    assert len(caught.value.problems) == 24
    assert all(p.what.startswith(words) and "image.value_range" in p.repair for p in caught.value.problems)
    plain = manifest(source(tmp_path / "plain"))
    told = manifest(folder, config(value_range=value_range))
    assert told["read"]["levels"] == pytest.approx(plain["read"]["levels"], abs=1)
    assert told["read"]["converted"] == {"TIFF": 24}


def test_images_of_one_grey_level_are_a_warning(tmp_path: Path):
    folder = source(tmp_path / "src")
    flat = np.full((SIDE, SIDE), 3, np.uint8)
    flat[0, 0] = 200
    Image.fromarray(flat).save(folder / "images" / "07.png")
    [warning] = manifest(folder)["warnings"]
    assert warning.startswith("1 images have nearly one grey level (07)")


def test_images_of_few_dark_levels_are_a_warning(tmp_path: Path):
    """As the high byte of 12 bits gives them."""
    (warning,) = manifest(source(tmp_path / "photos", lambda grey: grey // 16))["warnings"]
    assert warning.startswith("nearly all pixels have grey levels up to 12 of 255")


def test_indices_that_a_palette_does_not_have_are_a_warning(tmp_path: Path):
    """The graph shows them as black, and cannot know."""
    folder = source(tmp_path / "src")
    levels = np.asarray(Image.open(folder / "images/03.png"))
    ramp = np.repeat(np.arange(int(levels.max()), dtype=np.uint8), 3)
    (folder / "images/03.png").write_bytes(png(levels, 3, 8, png_chunk(b"PLTE", ramp.tobytes())))
    [warning] = manifest(folder)["warnings"]
    assert warning.startswith("1 images have pixels of an index that their palette does not have (03): they are black")


def test_masks_of_ids_among_those_of_colors_are_a_warning(tmp_path: Path):
    folder = source(tmp_path / "src")
    for index, (_, ids) in enumerate(surfaces(24)):
        if index < 2:
            Image.fromarray(ids).save(folder / "masks" / f"{index:02d}.png")
    [warning] = manifest(folder)["warnings"]
    assert warning.startswith("2 masks hold ids (00, 01) and 22 others colours: do the ids count the classes as")


def test_interpolated_masks_are_a_warning(tmp_path: Path):
    folder = source(tmp_path / "src")
    for index, (_, ids) in enumerate(surfaces(24)):
        blurred = np.where(ids == 2, 2, 0).astype(np.uint8)
        blurred[19:31, 14:20] = np.where(blurred[19:31, 14:20] == 2, 2, 1)
        blurred[19, 14] = 0
        Image.fromarray(COLORS[blurred]).save(folder / "masks" / f"{index:02d}.png")
    [warning] = manifest(folder)["warnings"]
    assert "of scratch is a rim one pixel wide between two other classes" in warning
    assert "nearest neighbour" in warning


def test_two_classes_of_which_the_background_is_the_smaller_are_a_warning(tmp_path: Path):
    folder, pairs = tmp_path / "photos", list(surfaces(24))
    names = [f"{number:02d}.png" for number in range(len(pairs))]
    two = config_from({"classes": [CLASSES[0], {"name": "defect", "color": [255, 255, 255]}]}, "test")
    for inverted, words in ((False, []), (True, ["defect covers 94% of the pixels: are the masks inverted"])):
        masks = {
            n: np.where((ids > 0) != inverted, 255, 0).astype(np.uint8)
            for n, (_, ids) in zip(names, pairs, strict=True)
        }
        write(folder, {name: grey for name, (grey, _) in zip(names, pairs, strict=True)}, masks)
        warnings = [w for w in manifest(folder, two)["warnings"] if "inverted" in w]
        assert [w.partition(",")[0] for w in warnings] == words


def test_masks_whose_ids_begin_with_1_are_a_warning(tmp_path: Path):
    """As Matlab counts; a stray pixel of 0 is enough to make the background a class that is there."""
    folder = source(tmp_path / "src")
    for mask in (folder / "masks").iterdir():
        ids = np.array(Image.open(mask)).any(axis=-1) + np.uint8(1)
        ids[0, 0] = 0
        Image.fromarray(ids).save(mask)
    (warning,) = manifest(folder)["warnings"]
    assert warning.startswith("scratch covers 94% of the pixels and background 0.0%: the first of [[classes]]")
    for mask in (folder / "masks").iterdir():
        Image.fromarray(np.maximum(Image.open(mask), 1)).save(mask)
    with pytest.raises(DataError, match=r"no training image shows background.*ids in masks count from 0"):
        manifest(folder)


def test_a_span_of_another_range_is_a_warning(tmp_path: Path):
    ingest(source(tmp_path / "first"), tmp_path / "records", config())
    darker = source(tmp_path / "second", lambda grey: grey // 3, seed=1)
    [warning] = [words for words in manifest(darker, span=2)["warnings"] if "grey levels" in words]
    assert warning.startswith("grey levels reach from ") and "in span 1 from" in warning
    assert manifest(source(tmp_path / "third", seed=2), span=2)["warnings"] == []


def png_of(rgb: np.ndarray) -> bytes:
    return encoded(rgb, "PNG")


def jpeg_of(rgb: np.ndarray) -> bytes:
    return encoded(rgb, "JPEG", quality=95, subsampling=0)


def test_boxes_drawn_as_masks_are_doubted(tmp_path: Path):
    folder = source(tmp_path / "src")
    masks = sorted((folder / "masks").iterdir())
    for number, mask in enumerate(masks):
        rgb = np.array(Image.open(mask))
        rgb[5, 6] = COLORS[1]
        if number % 2 == 0:
            Image.fromarray(rgb).save(mask)
    # A pixel at one corner is not drawn in half of them: that is no majority.
    assert manifest(folder)["warnings"] == []
    Image.fromarray(rgb).save(masks[1])
    (warning,) = manifest(folder)["warnings"]
    assert warning.startswith("the defects of 13 of 24 images are rectangles (00, 01, 02, ...)")


@pytest.mark.parametrize("fits", [png_of, jpeg_of])
def test_masks_painted_into_images_are_doubted(tmp_path: Path, fits: Any):
    """As tools save overlays; a flat defect without a colour is light or rust, and said nothing of."""
    folder = source(tmp_path / "src")
    images, masks = (sorted((folder / role).iterdir()) for role in ("images", "masks"))
    for number, (image, mask) in enumerate(zip(images[:4], masks, strict=False)):
        rgb, drawn = np.array(Image.open(image).convert("RGB")), np.array(Image.open(mask)).any(axis=-1)
        rgb[drawn] = [255, 255, 255] if number == 0 else [230, 40, 40]
        image.write_bytes(fits(rgb))
    (warning,) = manifest(folder)["warnings"]
    assert warning.startswith("3 images show a defect in one colour, flat or as a tint (01, 02, 03)")


@pytest.mark.parametrize("fits", [png_of, jpeg_of])
def test_masks_laid_over_images_are_doubted(tmp_path: Path, fits: Any):
    """As previews of masks are saved. Rust colours steel too, more here and less there; a colour photograph is no grey
    image that somebody painted.
    """
    folder = source(tmp_path / "src")
    images, masks = (sorted((folder / role).iterdir()) for role in ("images", "masks"))
    generator = np.random.default_rng(0)
    for number, (image, mask) in enumerate(zip(images[:4], masks, strict=False)):
        rgb, drawn = np.array(Image.open(image).convert("RGB")), np.array(Image.open(mask)).any(axis=-1)
        share = generator.uniform(0.1, 0.5, (SIDE, SIDE, 1)) if number == 0 else np.full((1, 1, 1), 0.3)
        if number == 1:
            rgb[~drawn] = (rgb * [1.0, 0.8, 0.6])[~drawn]
        laid = (1 - share) * rgb + share * np.array([230, 159, 0])
        image.write_bytes(fits(np.where(drawn[..., np.newaxis], laid, rgb).astype(np.uint8)))
    (warning,) = manifest(folder)["warnings"]
    assert warning.startswith("2 images show a defect in one colour, flat or as a tint (02, 03)")
