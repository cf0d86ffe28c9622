"""Every kind of image becomes bytes that TensorFlow reads as Pillow does; every bad pair is named in one line."""

import functools
import struct
import time
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import steel
from numpy.typing import NDArray
from PIL import Image, ImageOps

from flexunet.core.config.load import config_from
from flexunet.core.config.whole import Config
from flexunet.core.problems import Problem
from flexunet.dataset.examine import BadPair, Content, Facts, examine, read_content
from flexunet.dataset.pairs import Pair

COLORS = np.array(steel.COLORS, np.uint8)
CONFIG = config_from({"classes": steel.CLASSES}, "test")
IGNORING = config_from({"classes": steel.CLASSES, "records": {"ignore_color": [255, 255, 255]}}, "test")
WHOLE = "a whole image file"
WIDTH, HEIGHT = 20, 12


@functools.cache
def graph() -> Any:
    import tensorflow as tf

    from transform_module.images import decode_one

    signature = [tf.TensorSpec([], tf.string)]
    return tf.function(lambda encoded: decode_one(encoded, CONFIG.image), input_signature=signature)


def seen(content: Content) -> NDArray[np.uint8]:
    """A record's image as Transform and every signature decode it."""
    image, problem = graph()(content.image)
    assert problem == b""
    return image.numpy()


def scene() -> NDArray[np.uint8]:
    """A bright corner on a slope of light, [12, 20, 3]: no symmetry of the square leaves it as it is."""
    rows, columns = np.indices((HEIGHT, WIDTH))
    levels = np.stack([40 + 9 * columns, 60 + 9 * rows, 30 + 4 * rows + 3 * columns], axis=-1)
    levels[:4, :6] = (250, 240, 10)
    return levels.astype(np.uint8)


def some_ids() -> NDArray[np.uint8]:
    return (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) // 7 % 4).astype(np.uint8)


def saved(path: Path, image: Image.Image | NDArray[Any], **options: Any) -> Path:
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def rotated(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def pair_of(directory: Path, image: Path | None = None, mask: Path | None = None, transposed: bool = False) -> Pair:
    ids = some_ids().T if transposed else some_ids()
    image = image or saved(directory / "good.png", scene())
    return Pair("x", image, mask or saved(directory / "good_mask.png", ids), None)


def mask_rgb(content: Content) -> NDArray[np.uint8]:
    with Image.open(BytesIO(content.mask)) as mask:
        assert (mask.format, mask.mode) == ("PNG", "RGB")
        return np.asarray(mask)


def recorded(pair: Pair, config: Config = CONFIG) -> Content:
    return read_content(examine(pair, config), config)


def refusal(pair: Pair, config: Config = CONFIG) -> Problem:
    """One line that says where, what, what was expected and how to repair it."""
    with pytest.raises(BadPair) as caught:
        examine(pair, config)
    problem = caught.value.problem
    assert str(problem) == f"{problem.where}: {problem.what}; expected {problem.expected}: {problem.repair}"
    assert all(text.strip() for text in (problem.what, problem.expected, problem.repair))
    assert len(str(problem).splitlines()) == 1
    return problem


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def black_png(width: int, height: int) -> bytes:
    """A whole PNG of one bit per pixel, whatever its size: 170 million pixels are 20 KB."""
    pixels = zlib.compress(bytes((1 + (width + 7) // 8) * height), 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def bmp(bits: int, header: bytes) -> bytes:
    pixels = scene()[:, :, : bits // 8].tobytes()
    offset = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset) + header + pixels


LOSSLESS = [
    pytest.param("PNG", "L", {}, id="grey PNG"),
    pytest.param("PNG", "RGB", {}, id="RGB PNG"),
    pytest.param("PNG", "RGB", {"transparency": (250, 240, 10)}, id="PNG with a transparent colour"),
    pytest.param("PNG", "1", {}, id="black and white PNG"),
    pytest.param("PNG", "P", {}, id="palette PNG"),
    pytest.param("PNG", "RGBA", {}, id="RGBA PNG"),
    pytest.param("PNG", "LA", {}, id="grey PNG with alpha"),
    pytest.param("PNG", "RGB", {"exif": rotated(8)}, id="rotated PNG"),
    pytest.param("BMP", "L", {}, id="grey BMP"),
    pytest.param("BMP", "RGB", {}, id="RGB BMP"),
    pytest.param("BMP", "P", {}, id="palette BMP"),
    pytest.param("BMP", "RGBA", {}, id="RGBA BMP"),
    pytest.param("TIFF", "L", {}, id="grey TIFF"),
    pytest.param("TIFF", "RGB", {"compression": "tiff_lzw"}, id="compressed TIFF"),
    pytest.param("TIFF", "CMYK", {}, id="CMYK TIFF"),
    pytest.param("WEBP", "RGB", {"lossless": True}, id="lossless WebP"),
    pytest.param("WEBP", "RGB", {}, id="WebP"),
    pytest.param("JPEG", "CMYK", {}, id="CMYK JPEG"),
    pytest.param("JPEG", "RGB", {"exif": rotated(6)}, id="rotated JPEG"),
    pytest.param("JPEG", "RGB", {"exif": rotated(2)}, id="mirrored JPEG"),
]


@pytest.mark.parametrize(("image_format", "mode", "options"), LOSSLESS)
def test_tensorflow_reads_the_pixels_that_pillow_shows(
    tmp_path: Path, image_format: str, mode: str, options: dict[str, Any]
):
    source = Image.fromarray(scene())
    if mode in ("RGBA", "LA"):
        source.putalpha(Image.fromarray(scene()[..., 0]))
    file = saved(tmp_path / "image", source.convert(mode), format=image_format, **options)
    with Image.open(file) as image:
        shown = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    facts = examine(pair_of(tmp_path, file, transposed=shown.shape[0] == WIDTH), CONFIG)
    content = read_content(facts, CONFIG)
    decoded = seen(content)
    # Decoders of JPEG differ by a few levels in the colours.
    assert np.abs(decoded.astype(int) - shown).mean() <= (2 if image_format == "JPEG" else 0)
    assert (facts.height, facts.width) == shown.shape[:2] == mask_rgb(content).shape[:2]


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(("image_format", "name"), [("PNG", "png"), ("JPEG", "jpeg")])
def test_the_bytes_of_plain_files_are_kept(tmp_path: Path, mode: str, image_format: str, name: str):
    file = saved(tmp_path / "image", Image.fromarray(scene()).convert(mode), format=image_format)
    content = recorded(pair_of(tmp_path, file))
    assert content.image == file.read_bytes()
    assert examine(pair_of(tmp_path, file), CONFIG).image_format == name
    decoded = seen(content).astype(int)
    with Image.open(file) as image:
        shown = np.asarray(image.convert("RGB")).astype(int)
    assert decoded.shape == (HEIGHT, WIDTH, 3)
    # Decoders of JPEG differ by a few levels in the colours.
    assert np.abs(decoded - shown).mean() <= (2 if image_format == "JPEG" else 0)


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_16_bit_images_keep_their_high_byte(tmp_path: Path, image_format: str):
    deep = scene()[..., 0].astype(np.uint16) * 256 + 77
    content = recorded(pair_of(tmp_path, saved(tmp_path / "deep", deep, format=image_format)))
    np.testing.assert_array_equal(seen(content), scene()[..., [0, 0, 0]])


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_exif_orientations_are_turned_upright(tmp_path: Path, orientation: int):
    file = saved(tmp_path / "image.jpg", scene(), exif=rotated(orientation), quality=95)
    with Image.open(file) as image:
        upright = np.asarray(ImageOps.exif_transpose(image)).astype(int)
    content = recorded(pair_of(tmp_path, file, transposed=orientation >= 5))
    assert content.image == file.read_bytes()
    assert np.abs(seen(content) - upright).mean() <= 2
    assert not np.array_equal(upright, scene())


@pytest.mark.parametrize(
    ("bits", "header"),
    [
        pytest.param(16, struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 16, 0, 0, 0, 0, 0, 0), id="16 bits"),
        pytest.param(24, struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 24), id="OS/2"),
        pytest.param(24, struct.pack("<IiiHHIIiiII", 40, WIDTH, -HEIGHT, 1, 24, 0, 0, 0, 0, 0, 0), id="top down"),
    ],
)
def test_rare_bmps_decode_too(tmp_path: Path, bits: int, header: bytes):
    file = tmp_path / "image.bmp"
    file.write_bytes(bmp(bits, header))
    content = recorded(pair_of(tmp_path, file))
    with Image.open(file) as image:
        np.testing.assert_array_equal(seen(content), np.asarray(image))


def palette_mask() -> Image.Image:
    mask = Image.fromarray(some_ids(), "P")
    mask.putpalette(COLORS.tobytes())
    return mask


MASKS = [
    pytest.param(lambda: Image.fromarray(COLORS[some_ids()]), "PNG", id="RGB"),
    pytest.param(lambda: Image.fromarray(COLORS[some_ids()]).convert("RGBA"), "PNG", id="RGBA"),
    pytest.param(lambda: Image.fromarray(some_ids()), "PNG", id="ids"),
    pytest.param(lambda: Image.fromarray(some_ids().astype(np.uint16)), "PNG", id="16-bit ids"),
    pytest.param(lambda: Image.fromarray(some_ids().astype(np.int32)), "TIFF", id="32-bit ids"),
    pytest.param(lambda: Image.fromarray(some_ids()), "BMP", id="BMP of ids"),
    pytest.param(palette_mask, "PNG", id="palette PNG"),
    pytest.param(lambda: Image.fromarray(COLORS[some_ids()]), "TIFF", id="RGB TIFF"),
]


@pytest.mark.parametrize(("make", "image_format"), MASKS)
def test_masks_become_the_palettes_colors(tmp_path: Path, make: Any, image_format: str):
    pair = pair_of(tmp_path, mask=saved(tmp_path / "mask", make(), format=image_format))
    np.testing.assert_array_equal(mask_rgb(recorded(pair)), COLORS[some_ids()])
    facts: Facts = examine(pair, CONFIG)
    assert facts.pixels.tolist() == [63, 63, 58, 56]
    assert facts.defects == (1, 2, 3)
    assert (facts.height, facts.width) == (HEIGHT, WIDTH)


def test_a_black_and_white_mask_is_ids_0_and_1(tmp_path: Path):
    pair = pair_of(tmp_path, mask=saved(tmp_path / "mask.png", some_ids() % 2 == 1))
    assert examine(pair, CONFIG).pixels.tolist() == [121, 119, 0, 0]


def test_255_is_unlabelled_only_with_an_ignore_color(tmp_path: Path):
    ids = some_ids()
    ids[0, :5] = 255
    pair = pair_of(tmp_path, mask=saved(tmp_path / "mask.png", ids))
    assert refusal(pair).what == "5 pixels with ids outside the classes (255)"
    np.testing.assert_array_equal(mask_rgb(recorded(pair, IGNORING))[0, :6], [[255, 255, 255]] * 5 + [[0, 0, 0]])
    assert examine(pair, IGNORING).pixels.tolist() == [58, 63, 58, 56]


def test_the_ignore_color_in_a_mask_of_colors(tmp_path: Path):
    colors = COLORS[some_ids()]
    colors[0, :5] = 255
    pair = pair_of(tmp_path, mask=saved(tmp_path / "mask.png", colors))
    assert "RGB (255, 255, 255)" in refusal(pair).what
    np.testing.assert_array_equal(mask_rgb(recorded(pair, IGNORING)), colors)
    assert examine(pair, IGNORING).pixels.tolist() == [58, 63, 58, 56]


@pytest.mark.parametrize(
    ("values", "dtype", "suffix", "named"),
    [
        ([4], np.uint8, "png", "1 pixels with ids outside the classes (4)"),
        ([9, 9, 4, 200], np.uint8, "png", "4 pixels with ids outside the classes (4, 9, 200)"),
        ([256], np.uint16, "png", "1 pixels with ids outside the classes (256)"),
        ([65535], np.uint16, "png", "1 pixels with ids outside the classes (65535)"),
        ([-1, -256], np.int32, "tiff", "2 pixels with ids outside the classes (-256, -1)"),
    ],
)
@pytest.mark.parametrize("config", [CONFIG, IGNORING], ids=["plain", "ignoring"])
def test_ids_out_of_range(tmp_path: Path, values: list[int], dtype: Any, suffix: str, named: str, config: Config):
    ids = some_ids().astype(dtype)
    ids[3, : len(values)] = values
    problem = refusal(pair_of(tmp_path, mask=saved(tmp_path / f"mask.{suffix}", ids)), config)
    assert problem.where == tmp_path / f"mask.{suffix}"
    assert problem.what == named
    assert "0 background, 1 inclusion, 2 patches, 3 scratches" in problem.expected


def test_unknown_colors(tmp_path: Path):
    colors = COLORS[some_ids()]
    colors[2, :7], colors[3, 0] = (10, 240, 5), (1, 1, 1)
    problem = refusal(pair_of(tmp_path, mask=saved(tmp_path / "mask.png", colors)))
    assert problem.where == tmp_path / "mask.png"
    assert problem.what.startswith("8 pixels of 2 colours outside the palette")
    assert "RGB (10, 240, 5) (nearest: patches (0, 255, 0))" in problem.what
    assert "scratches (255, 0, 0)" in problem.expected


def test_a_palette_png_counts_by_its_colors_not_its_indices(tmp_path: Path):
    mask = palette_mask()
    mask.putpalette(bytes([0, 0, 0, 9, 9, 9, 0, 255, 0, 255, 0, 0]))
    assert "63 pixels of 1 colours" in refusal(pair_of(tmp_path, mask=saved(tmp_path / "mask.png", mask))).what


@pytest.mark.parametrize("options", [{}, {"exif": rotated(3)}], ids=["upright", "rotated"])
def test_jpeg_masks_are_refused_even_where_their_colors_fit(tmp_path: Path, options: dict[str, Any]):
    mask = saved(tmp_path / "mask.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8), format="JPEG", **options)
    problem = refusal(pair_of(tmp_path, mask=mask))
    assert problem.where == mask
    assert problem.what == "a mask as JPEG"
    assert "PNG" in problem.repair


def test_size_mismatch_names_both_sizes(tmp_path: Path):
    mask = saved(tmp_path / "mask.png", some_ids()[:, 1:])
    problem = refusal(pair_of(tmp_path, mask=mask))
    assert problem.where == mask
    assert "19x12" in problem.what
    assert "good.png is 20x12" in problem.what


def test_a_mask_that_lies_as_the_camera_did_is_a_size_mismatch(tmp_path: Path):
    image = saved(tmp_path / "image.jpg", scene(), exif=rotated(6))
    assert "is 20x12" in refusal(pair_of(tmp_path, image)).what


def encoded(image_format: str, **options: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(
        buffer, image_format, **options
    )
    return buffer.getvalue()


@pytest.mark.parametrize("role", ["image", "mask"])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="zero bytes"),
        pytest.param(b"images are to be sent later\n", id="text"),
        pytest.param(encoded("PNG")[:400], id="half a PNG"),
        pytest.param(encoded("PNG")[:30], id="a PNG's header"),
        pytest.param(encoded("JPEG")[:700], id="half a JPEG"),
        pytest.param(encoded("TIFF")[:300], id="half a TIFF"),
        pytest.param(encoded("WEBP")[:100], id="half a WebP"),
        pytest.param(encoded("BMP")[:300], id="half a BMP"),
    ],
)
def test_broken_files(tmp_path: Path, content: bytes, role: str):
    broken = tmp_path / "broken.png"
    broken.write_bytes(content)
    problem = refusal(pair_of(tmp_path, **{role: broken}))
    assert problem.where == broken
    known = ("no bytes", "no picture by its first bytes", "damaged or truncated", "a TIFF that is damaged")
    assert problem.what.startswith(known)


@pytest.mark.parametrize("lost", [1, 8, 12, 14])
def test_a_png_without_its_end_is_refused_or_mended(tmp_path: Path, lost: int):
    """Pillow reads it, TensorFlow does not: kept as it is, it would fail in Transform, hours later."""
    file = tmp_path / "image.png"
    file.write_bytes(encoded("PNG")[:-lost])
    try:
        content = recorded(pair_of(tmp_path, file))
    except BadPair as bad:
        assert bad.problem.expected == WHOLE
    else:
        assert seen(content).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "JPEG"])
def test_broken_exif_is_refused_or_ignored(tmp_path: Path, image_format: str):
    file = tmp_path / "image.png"
    file.write_bytes(encoded(image_format, exif=b"Exif\0\0garbage"))
    try:
        content = recorded(pair_of(tmp_path, file))
    except BadPair as bad:
        assert bad.problem.where == file
    else:
        assert seen(content).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("role", ["image", "mask"])
def test_a_bomb_is_refused_from_its_header(tmp_path: Path, role: str):
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(black_png(13_000, 13_000))
    assert bomb.stat().st_size < 100_000
    start = time.perf_counter()
    problem = refusal(pair_of(tmp_path, **{role: bomb}))
    assert time.perf_counter() - start < 1
    assert problem.where == bomb
    assert problem.what == "13000x13000 pixels"
    assert problem.expected == "at most 50,000,000 pixels (image.max_pixels)"


def test_a_cut_bomb_is_too_large_before_it_is_broken(tmp_path: Path):
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(black_png(13_000, 13_000)[:60])
    assert refusal(pair_of(tmp_path, bomb)).what == "13000x13000 pixels"


def test_the_bound_of_pixels_is_inclusive(tmp_path: Path):
    def at_most(pixels: int) -> Config:
        image = {"height": 8, "width": 8, "max_pixels": pixels}
        return config_from({"classes": steel.CLASSES, "image": image, "model": {"num_layers": 2}}, "test")

    assert examine(pair_of(tmp_path), at_most(HEIGHT * WIDTH)).height == HEIGHT
    config = at_most(HEIGHT * WIDTH - 1)
    assert refusal(pair_of(tmp_path), config).what == "20x12 pixels"


def test_equal_pixels_share_a_digest_whatever_file_holds_them(tmp_path: Path):
    png = examine(pair_of(tmp_path, saved(tmp_path / "a.png", scene())), CONFIG)
    tiff = examine(pair_of(tmp_path, saved(tmp_path / "a.tif", scene())), CONFIG)
    other = examine(pair_of(tmp_path, saved(tmp_path / "b.png", scene()[::-1])), CONFIG)
    assert png.pixel_digest == tiff.pixel_digest != other.pixel_digest
    assert len({png.digest, tiff.digest, other.digest}) == 3


@pytest.mark.parametrize("role", ["image", "mask"])
def test_a_file_that_changes_during_the_ingest_is_refused(tmp_path: Path, role: str):
    pair = pair_of(tmp_path)
    facts = examine(pair, CONFIG)
    with getattr(pair, role).open("ab") as file:
        file.write(b"x")
    with pytest.raises(BadPair, match="changed during the ingest"):
        read_content(facts, CONFIG)


@pytest.mark.parametrize(("mode", "kept"), [("RGB", True), ("P", False), ("L", False)])
def test_rgb_masks_are_kept_byte_for_byte_and_others_recoloured(tmp_path: Path, mode: str, kept: bool):
    mask = Image.fromarray(COLORS[some_ids()]) if mode != "L" else Image.fromarray(some_ids())
    mask.convert(mode).save(tmp_path / "m.png")
    pair = pair_of(tmp_path, mask=tmp_path / "m.png")
    assert (recorded(pair).mask == (tmp_path / "m.png").read_bytes()) is kept
    np.testing.assert_array_equal(mask_rgb(recorded(pair)), COLORS[some_ids()])


def test_a_png_with_a_wrong_checksum_is_refused(tmp_path: Path):
    encoded = bytearray(saved(tmp_path / "good.png", scene()).read_bytes())
    encoded[encoded.index(b"IEND") - 5] ^= 1
    (tmp_path / "broken.png").write_bytes(encoded)
    assert refusal(pair_of(tmp_path, tmp_path / "broken.png")).what.startswith("damaged or truncated")
