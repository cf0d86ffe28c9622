"""The table of what can be read, cell by cell: each is a file that is examined for a record, and served.

What the model sees is compared, to the pixel, between the file as a served model gets it and the record made of it; and
with the picture that was written. All cells of one configuration go through the graph as one batch.
"""

import dataclasses
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from picture_files import (
    bmp,
    exif,
    lossless_jpeg,
    png,
    png_chunk,
    tiff,
    with_app1,
    with_chunk,
    with_frame_marker,
    without_adobe,
)
from pictures import encoded
from PIL import Image, ImageChops

from flexunet.core import readable
from flexunet.core.config.load import config_from
from flexunet.core.headers import read_header
from flexunet.core.pictures import Refused, open_image, served_bytes
from flexunet.core.readable import Kind
from flexunet.dataset.examine import BadPair, Content, examine, read_content
from flexunet.dataset.pairs import Pair

HEIGHT, WIDTH = 12, 20
CLASSES = [{"name": "background", "color": [0, 0, 0]}, {"name": "defect", "color": [255, 0, 0]}]
Pixels = NDArray[np.uint8]


def scene() -> Pixels:
    """A bright corner on a slope of light: no symmetry of the square leaves it as it is; smooth, for lossy formats."""
    rows, columns = np.indices((HEIGHT, WIDTH))
    levels = np.stack([60 + 6 * columns, 60 + 9 * rows, 60 + 3 * rows + 4 * columns], axis=-1)
    levels[:4, :8] = 230
    return levels.astype(np.uint8)


RGB = scene()
GREY = RGB[..., 0]
GREY_RGB = np.repeat(GREY[..., np.newaxis], 3, -1)
# Few colours, as palettes of one to four bits have them.
FEW = (GREY // 16).astype(np.uint8)
PALETTE = np.array([[255 - 16 * i, 7 * i, 16 * i] for i in range(16)], np.uint8)
BLACK_WHITE = np.where(GREY > 120, 255, 0).astype(np.uint8)


def moved() -> list[Image.Image]:
    """Another picture; a new one each time, since Pillow leaves settings of a format on the images that it wrote."""
    return [Image.fromarray(np.roll(RGB, 3, axis=1))]


TURNS: dict[int, Callable[[Any], Any]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A file, its kind, and the upright picture it shows, None where it is refused.

    `tolerance`: mean difference in levels, of lossy formats. `told`: how the refusal begins, where the kind says none.
    """

    name: str
    file: bytes
    kind: Kind
    shown: Pixels | None
    tolerance: float = 0
    value_range: tuple[float, float] | None = None
    told: str = ""


def grey(values: Pixels) -> Pixels:
    return np.repeat(values[..., np.newaxis], 3, -1)


def with_alpha(kind: str, **options: Any) -> bytes:
    image = Image.fromarray(RGB)
    image.putalpha(Image.fromarray(GREY))
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def of_palette(colors: int, kind: str, **options: Any) -> bytes:
    image = Image.fromarray(FEW % colors, "P")
    image.putpalette(PALETTE[:colors].tobytes())
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned_png(file: bytes, block: bytes) -> bytes:
    return file[:33] + png_chunk(b"eXIf", block) + file[33:]


def pngs() -> Iterator[Cell]:
    files = {
        "grey": (encoded(GREY, "PNG"), GREY_RGB),
        "RGB": (encoded(RGB, "PNG"), RGB),
        "RGBA": (with_alpha("PNG"), RGB),
        "grey and alpha": (png(np.dstack([GREY, GREY]), 4, 8), GREY_RGB),
        "1 bit": (encoded(BLACK_WHITE, "PNG", "1"), grey(BLACK_WHITE)),
        "palette": (of_palette(16, "PNG", bits=8), PALETTE[FEW]),
        "palette of 4 bits": (of_palette(16, "PNG", bits=4), PALETTE[FEW]),
        "palette of 2 bits": (of_palette(4, "PNG", bits=2), PALETTE[FEW % 4]),
        "transparent palette": (of_palette(16, "PNG", transparency=3), PALETTE[FEW]),
        "transparent colour": (encoded(RGB, "PNG", transparency=(230, 230, 230)), RGB),
    }
    for name, (file, shown) in files.items():
        for orientation, turn in TURNS.items():
            block = exif(orientation, "<" if orientation % 2 else ">")
            yield Cell(f"PNG {name}, turned {orientation}", turned_png(file, block), readable.PNG, turn(shown))
        yield Cell(f"PNG {name}", file, readable.PNG, shown)
    linear = png_chunk(b"gAMA", (100_000).to_bytes(4, "big"))
    yield Cell("PNG of another gamma", png(RGB, 2, 8, linear), readable.PNG, RGB)
    yield Cell("grey PNG of another gamma", png(GREY, 0, 8, linear), readable.PNG, GREY_RGB)
    yield Cell("PNG with a profile", encoded(RGB, "PNG", icc_profile=b"x" * 500, dpi=(72, 72)), readable.PNG, RGB)
    note, most = png_chunk(b"tEXt", b"shift\0night"), readable.MOST_SEGMENTS
    yield Cell("PNG of many chunks", png(RGB, 2, 8, (most - 1) * note), readable.PNG, RGB)
    yield Cell("PNG of more", png(RGB, 2, 8, most * note), readable.PNG, None, told=readable.DAMAGED.what)
    short = png_chunk(b"PLTE", PALETTE[:6].tobytes())
    dark = np.where(FEW[..., np.newaxis] < 6, PALETTE[FEW], 0).astype(np.uint8)
    yield Cell("PNG of an index outside its palette", png(FEW, 3, 8, short), readable.PNG, dark)
    damaged = {
        "indices without a palette": png(FEW, 3, 8),
        "an empty palette": png(FEW, 3, 8, png_chunk(b"PLTE", b"")),
        "a palette of a third colour less": png(FEW, 3, 8, png_chunk(b"PLTE", PALETTE.tobytes()[:-1])),
        "two palettes": png(FEW, 3, 8, 2 * png_chunk(b"PLTE", PALETTE.tobytes())),
        "two headers": png(GREY, 0, 8, encoded(GREY, "PNG")[8:33]),
    }
    for name, file in damaged.items():
        yield Cell(f"PNG of {name}", file, readable.PNG, None, told=readable.DAMAGED.what)
    yield Cell("animated PNG", encoded(RGB, "PNG", save_all=True, append_images=moved()), readable.PNG_ANIMATED, None)


def deep_pngs() -> Iterator[Cell]:
    whole, low = GREY.astype(np.uint16) * 257, GREY.astype(np.uint16) * 16 + 7
    color = RGB.astype(np.uint16) * 256 + 99
    kind, colored = readable.PNG_DEEP, readable.PNG_DEEP_COLOR
    for orientation, turn in TURNS.items():
        file = turned_png(encoded(whole, "PNG"), exif(orientation))
        yield Cell(f"16-bit grey PNG, turned {orientation}", file, kind, turn(GREY_RGB))
    transparent = png(whole, 0, 16, png_chunk(b"tRNS", bytes([230, 230])))
    yield Cell("16-bit grey PNG with a transparent level", transparent, kind, GREY_RGB)
    yield Cell("12 bits in 16, range told", encoded(low, "PNG"), kind, GREY_RGB, value_range=(0, 4095))
    yield Cell("12 bits in 16", encoded(low, "PNG"), kind, None, told=readable.UNUSED_16_BITS.what)
    yield Cell("16 bits outside the range", encoded(whole, "PNG"), kind, None, 0, (0, 4095), "values outside")
    yield Cell("whole 16 bits, range told", encoded(whole, "PNG"), kind, GREY_RGB, value_range=(0, 65535))
    yield Cell("16-bit RGB PNG", png(color, 2, 16), colored, RGB)
    yield Cell("16-bit RGBA PNG", png(np.dstack([color, color[..., :1]]), 6, 16), colored, RGB)
    yield Cell("16-bit grey and alpha PNG", png(np.dstack([color[..., 0]] * 2), 4, 16), colored, GREY_RGB)
    yield Cell("12 bits in 16-bit RGB", png(color // 16, 2, 16), colored, None, told=readable.UNUSED_16_BITS.what)
    told = readable.DEEP_COLOR_RANGE.what
    yield Cell("16-bit RGB PNG, range told", png(color, 2, 16), colored, None, 0, (0, 4095), told)


def jpegs() -> Iterator[Cell]:
    files = {
        "grey": (encoded(GREY, "JPEG", quality=98), GREY_RGB),
        "4:2:0": (encoded(RGB, "JPEG", quality=98), RGB),
        "4:4:4": (encoded(RGB, "JPEG", quality=98, subsampling=0), RGB),
        "progressive": (encoded(RGB, "JPEG", quality=98, progressive=True), RGB),
        "CMYK": (encoded(RGB, "JPEG", "CMYK", quality=98), RGB),
    }
    for name, (file, shown) in files.items():
        for orientation, turn in TURNS.items():
            block = b"Exif\0\0" + exif(orientation, ">" if orientation % 2 else "<")
            cell = Cell(f"JPEG {name}, turned {orientation}", with_app1(file, block), readable.JPEG, turn(shown), 6)
            yield cell
        yield Cell(f"JPEG {name}", file, readable.JPEG, shown, 6)
    plain = files["4:2:0"][0]
    yield Cell("JPEG extended", with_frame_marker(plain, 0xC1), readable.JPEG, RGB, 6)
    yield Cell("JPEG of RGB", encoded(RGB, "JPEG", quality=98, keep_rgb=True), readable.JPEG, RGB, 6)
    restarts = encoded(RGB, "JPEG", quality=98, restart_marker_blocks=1)
    yield Cell("JPEG with restarts", restarts, readable.JPEG, RGB, 6)
    yield Cell("JPEG lossless", lossless_jpeg(GREY), readable.JPEG_LOSSLESS, GREY_RGB)
    turned = with_app1(lossless_jpeg(GREY), b"Exif\0\0" + exif(6))
    yield Cell("JPEG lossless, turned", turned, readable.JPEG_LOSSLESS, TURNS[6](GREY_RGB))
    yield Cell("JPEG of 12 bits", with_frame_marker(plain, 0xC1, 12), readable.JPEG_DEEP, None)
    yield Cell("JPEG lossless of 16 bits", with_frame_marker(plain, 0xC3, 16), readable.JPEG_DEEP, None)
    for marker in (0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7):
        yield Cell(f"JPEG of process {marker:x}", with_frame_marker(plain, marker), readable.JPEG_RARE, None)
    several = encoded(RGB, "MPO", save_all=True, append_images=moved(), quality=98)
    ink = io.BytesIO()
    ImageChops.invert(Image.fromarray(RGB).convert("CMYK")).save(ink, "JPEG", quality=98)
    yield Cell("JPEG CMYK that Adobe did not write", without_adobe(ink.getvalue()), readable.JPEG, RGB, 6)
    yield Cell("JPEG of several pictures", several, readable.JPEG, RGB, 6)


def orientations() -> Iterator[Cell]:
    """EXIF as it should not be: what is hostile or of another form is ignored by all."""
    plain = encoded(RGB, "JPEG", quality=98)
    blocks = {
        "a long": (exif(6, kind=4), 6),
        "orientation 0": (exif(0), 1),
        "orientation 9": (exif(9), 1),
        "text": (exif(6, kind=2), 1),
        "an offset outside": (b"II*\0\xff\xff\xff\x7f" + exif(6)[8:], 1),
        "an offset to itself": (b"II*\0\0\0\0\0" + exif(6)[8:], 1),
        "65,535 entries of a few": (exif(6)[:8] + b"\xff\xff" + exif(6)[10:], 6),
        "cut": (exif(6)[:20], 1),
        "no byte order": (b"XX" + exif(6)[2:], 1),
        "64 KB of tags": (b"II*\0\x08\0\0\0\x50\x15" + b"\x0f\x01\x02\0\x04\0\0\0cam\0" * 5000, 1),
    }
    for name, (block, orientation) in blocks.items():
        file = with_app1(plain, b"Exif\0\0" + block)
        yield Cell(f"JPEG, EXIF with {name}", file, readable.JPEG, TURNS[orientation](RGB), 6)
        yield Cell(
            f"PNG, EXIF with {name}", turned_png(encoded(RGB, "PNG"), block), readable.PNG, TURNS[orientation](RGB)
        )
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    yield Cell("JPEG, turned by XMP alone", with_app1(plain, xmp), readable.JPEG, RGB, 6)
    twice = with_app1(with_app1(plain, b"Exif\0\0" + exif(3)), b"Exif\0\0" + exif(6))
    yield Cell("JPEG, EXIF twice", twice, readable.JPEG, TURNS[6](RGB), 6)
    file = encoded(RGB, "PNG")
    late = file[:-12] + png_chunk(b"eXIf", exif(6)) + file[-12:]
    yield Cell("PNG, EXIF behind the pixels", late, readable.PNG, RGB)
    yield Cell("PNG, EXIF with a prefix", turned_png(file, b"Exif\0\0" + exif(6)), readable.PNG, TURNS[6](RGB))


def webps() -> Iterator[Cell]:
    files = {
        "lossless": (encoded(RGB, "WEBP", lossless=True), 0),
        "lossy": (encoded(RGB, "WEBP", quality=98), 8),
    }
    for name, (file, tolerance) in files.items():
        for orientation, turn in TURNS.items():
            turned = with_chunk(file, b"EXIF", exif(orientation))
            yield Cell(f"WebP {name}, turned {orientation}", turned, readable.WEBP, turn(RGB), tolerance)
        yield Cell(f"WebP {name}", file, readable.WEBP, RGB, tolerance)
    block = b"Exif\0\0" + exif(6)
    alpha = with_alpha("WEBP", lossless=True, exact=True, exif=block)
    yield Cell("WebP lossless with alpha, turned", alpha, readable.WEBP, TURNS[6](RGB))
    lossy = with_alpha("WEBP", quality=98, exact=True)
    yield Cell("WebP lossy with alpha", lossy, readable.WEBP, RGB, 8)
    moving = encoded(RGB, "WEBP", save_all=True, append_images=moved(), lossless=True)
    yield Cell("animated WebP", moving, readable.WEBP_ANIMATED, None)


def bmps() -> Iterator[Cell]:
    indexed = readable.BMP_INDEXED
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, np.newaxis], 3, 1)
    seven = np.minimum(2 * ramp[:128].astype(int), 255).astype(np.uint8)
    yield Cell("BMP of 24 bits", bmp(RGB, 24), readable.BMP, RGB)
    yield Cell("BMP of 24 bits from the top", bmp(RGB, 24, top_down=True), readable.BMP, RGB)
    yield Cell("BMP of 32 bits", bmp(RGB, 32), readable.BMP, RGB)
    yield Cell("BMP with bytes behind it", bmp(RGB, 24) + b"\0\0", readable.BMP, RGB)
    yield Cell("grey BMP", bmp(GREY, 8, ramp), indexed, GREY_RGB)
    yield Cell("inverted BMP", bmp(GREY, 8, ramp[::-1]), indexed, 255 - GREY_RGB)
    yield Cell("BMP of a 7-bit camera", bmp(GREY // 2, 8, seven), indexed, grey(GREY // 2 * 2))
    yield Cell("BMP with colours", bmp(FEW, 8, PALETTE), indexed, PALETTE[FEW])
    yield Cell("BMP with colours from the top", bmp(FEW, 8, PALETTE, True), indexed, PALETTE[FEW])
    yield Cell("BMP with an index outside", bmp(FEW, 8, PALETTE[:3]), indexed, None, told=readable.DAMAGED.what)
    yield Cell("BMP of 4 bits", bmp(FEW, 4, PALETTE), readable.BMP_RARE, PALETTE[FEW])
    two = (BLACK_WHITE // 255).astype(np.uint8)
    yield Cell("BMP of 1 bit", bmp(two, 1, PALETTE[[3, 9]]), readable.BMP_RARE, PALETTE[[3, 9]][two])
    yield Cell("BMP of 16 bits", bmp(RGB, 16), readable.BMP_RARE, RGB, 6)


def tiffs() -> Iterator[Cell]:
    kind = readable.TIFF
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield Cell(f"TIFF {compression}", encoded(RGB, "TIFF", compression=compression), kind, RGB)
    yield Cell("TIFF with JPEG inside", encoded(RGB, "TIFF", compression="jpeg", quality=98), kind, RGB, 6)
    yield Cell("grey TIFF", encoded(GREY, "TIFF"), kind, GREY_RGB)
    yield Cell("TIFF of 1 bit", encoded(BLACK_WHITE, "TIFF", "1"), kind, grey(BLACK_WHITE))
    yield Cell("palette TIFF", of_palette(16, "TIFF"), kind, PALETTE[FEW])
    yield Cell("CMYK TIFF", encoded(RGB, "TIFF", "CMYK"), kind, RGB, 1)
    for orientation, turn in TURNS.items():
        file = encoded(RGB, "TIFF", tiffinfo={274: orientation})
        yield Cell(f"TIFF, turned {orientation}", file, kind, turn(RGB))
    yield Cell("TIFF of four channels", encoded(RGB, "TIFF", "RGBX"), kind, None, told="a TIFF with channels beside")
    yield Cell("16-bit TIFF", encoded(GREY.astype(np.uint16) * 257, "TIFF"), kind, GREY_RGB)
    inverted = encoded((255 - GREY).astype(np.uint16) * 257, "TIFF", tiffinfo={262: 0})
    yield Cell("16-bit TIFF whose zero is white", inverted, kind, GREY_RGB)
    values: dict[str, tuple[NDArray[Any], tuple[float, float]]] = {
        "float 0 to 1": ((GREY / 255).astype(np.float32), (0, 1)),
        "float 0 to 255": (GREY.astype(np.float32), (0, 255)),
        "int32": (GREY.astype(np.int32), (0, 255)),
        "negative int32": (GREY.astype(np.int32) - 100, (-100, 155)),
        "12 bits in 16": (GREY.astype(np.uint16) * 16, (0, 4095)),
    }
    for name, (numbers, value_range) in values.items():
        file = encoded(numbers, "TIFF")
        yield Cell(f"TIFF of {name}, range told", file, kind, GREY_RGB, 1, value_range)
        yield Cell(f"TIFF of {name}", file, kind, None, told="a picture of ")
    nothing = np.full((HEIGHT, WIDTH), np.nan, np.float32)
    yield Cell("TIFF of no number", encoded(nothing, "TIFF"), kind, None, 0, (0, 1), "a picture of floats that are not")
    pages = encoded(RGB, "TIFF", save_all=True, append_images=moved())
    yield Cell("TIFF of two pages", pages, kind, None, told="a TIFF of several pictures")
    size, apart, told = (WIDTH, HEIGHT), {284: 2}, "an uncompressed TIFF of YCbCr, or whose deep channels lie apart"
    planes = [RGB[..., channel] for channel in range(3)]
    deep = [(plane.astype("<u2") * 257).tobytes() for plane in planes]
    yield Cell("TIFF of planes", tiff([plane.tobytes() for plane in planes], size, 8, 3, apart), kind, RGB)
    yield Cell("TIFF of deep planes", tiff(deep, size, 16, 3, apart), kind, None, told=told)
    packed = [*map(zlib.compress, deep)]
    yield Cell("TIFF of deep planes, deflated", tiff(packed, size, 16, 3, {**apart, 259: 8}), kind, RGB)
    ycbcr = np.asarray(Image.fromarray(RGB).convert("YCbCr")).tobytes()
    yield Cell("TIFF of YCbCr", tiff([ycbcr], size, 8, 3, {262: 6}), kind, None, told=told)
    reduced = encoded(RGB, "TIFF", tiffinfo={254: 1})
    yield Cell("TIFF of a thumbnail", reduced, kind, None, told="a TIFF whose first picture is a thumbnail")
    yield Cell("GIF", of_palette(16, "GIF"), readable.GIF, PALETTE[FEW])
    moving = encoded(RGB, "GIF", save_all=True, append_images=moved())
    yield Cell("animated GIF", moving, readable.GIF, None, told="a GIF of several pictures")


def others() -> Iterator[Cell]:
    files = {
        readable.EMPTY: b"",
        readable.UNKNOWN: b"images are to be sent later",
        readable.HTML: b"<!DOCTYPE html><html><body>404</body></html>",
        readable.XML: b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>",
        readable.ZEROS: b"\0" * 4096,
        readable.JPEG_XL: b"\xff\x0a\xfa\x1f",
        readable.LFS: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        readable.JPEG_2000: encoded(RGB, "JPEG2000"),
        readable.HEIF: b"\0\0\0\x1cftypavif" + b"\0" * 100,
        readable.PSD: b"8BPS" + b"\0" * 100,
        readable.NETPBM: encoded(RGB, "PPM"),
        readable.EXR: b"v/1\x01" + b"\0" * 100,
        readable.PDF: b"%PDF-1.7",
        readable.DICOM: b"\0" * 128 + b"DICM" + b"\0" * 100,
    }
    for kind, file in files.items():
        yield Cell(kind.name, file, kind, None)
    for name, whole in (("PNG", encoded(RGB, "PNG")), ("JPEG", encoded(RGB, "JPEG")), ("WebP", encoded(RGB, "WEBP"))):
        kind = {"PNG": readable.PNG, "JPEG": readable.JPEG, "WebP": readable.WEBP}[name]
        yield Cell(f"half a {name}", whole[: len(whole) * 2 // 3], kind, None, told=readable.DAMAGED.what)
        yield Cell(f"a {name}'s first bytes", whole[:12], kind, None, told=readable.DAMAGED.what)


CELLS = [*pngs(), *deep_pngs(), *jpegs(), *orientations(), *webps(), *bmps(), *tiffs(), *others()]


@dataclasses.dataclass(frozen=True)
class Read:
    """What the model sees of a cell, uint8 `[20, 20, 3]`, padded, and its size; or why it is refused."""

    tile: Pixels
    size: tuple[int, int]
    problem: str


def config_of(value_range: tuple[float, float] | None) -> Any:
    image = {"height": 20, "width": 20, "fit": "pad", **({"value_range": list(value_range)} if value_range else {})}
    return config_from({"classes": CLASSES, "image": image, "model": {"num_layers": 2}}, "test")


def serving(config: Any) -> Callable[[list[bytes]], list[Read]]:
    """The graph that every signature begins with, traced once."""
    import tensorflow as tf

    from transform_module.images import decode_rows

    signature = [tf.TensorSpec([None], tf.string)]
    graph = tf.function(lambda rows: decode_rows(rows, config.image), input_signature=signature)
    return lambda files: _reads(*graph(tf.constant(files)))


def _reads(tiles: Any, sizes: Any, problems: Any) -> list[Read]:
    return [
        Read(tile[0], tuple(size), problem.decode())
        for tile, size, problem in zip(tiles.numpy(), sizes.numpy().tolist(), problems.numpy(), strict=True)
    ]


def recorded(cell: Cell, config: Any, folder: Path) -> Content | str:
    """What the record holds, or the words in which ingest refuses the file."""
    height, width = (cell.shown if cell.shown is not None else RGB).shape[:2]
    (folder / "image").write_bytes(cell.file)
    Image.fromarray(np.eye(height, width, dtype=np.uint8)).save(folder / "mask.png")
    pair = Pair("x", folder / "image", folder / "mask.png", None)
    try:
        return read_content(examine(pair, config), config)
    except BadPair as bad:
        return str(bad.problem).removeprefix(f"{folder / 'image'}: ")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Read, Content | str, Read | None]]:
    """Of each cell: the file served, its record, and what the graph makes of the record's image."""
    folder = tmp_path_factory.mktemp("cells")
    found = {}
    for value_range in {cell.value_range for cell in CELLS}:
        config, cells = config_of(value_range), [cell for cell in CELLS if cell.value_range == value_range]
        served = serving(config)
        contents = [recorded(cell, config, folder) for cell in cells]
        images = [content.image if isinstance(content, Content) else b"" for content in contents]
        rows = zip(cells, served([c.file for c in cells]), contents, served(images), strict=True)
        for cell, raw, content, record in rows:
            found[cell.name] = (raw, content, record if isinstance(content, Content) else None)
    return found


def test_the_table_is_covered():
    assert len({cell.name for cell in CELLS}) == len(CELLS) >= 150
    assert {cell.kind for cell in CELLS} == {*readable.KINDS}


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_a_cell_is_read_the_same_by_all_or_refused_by_all(cell: Cell, outcomes: Any):
    raw, content, record = outcomes[cell.name]
    assert read_header(cell.file).kind is cell.kind
    if cell.shown is None:
        words = str(cell.kind.words) if cell.kind.words and not cell.kind.plugin else cell.told
        assert isinstance(content, str) and content.startswith(words), content
        # What a server does not open, it cannot look into.
        assert raw.problem == (content if cell.kind.is_read or not cell.kind.plugin else str(cell.kind.words))
        return
    assert isinstance(content, Content), content
    assert record.problem == "" and record.size == cell.shown.shape[:2]
    shown = record.tile[: record.size[0], : record.size[1]].astype(int)
    assert np.abs(shown - cell.shown).mean() <= cell.tolerance
    if cell.kind.is_read:
        assert content.image == cell.file
        assert raw.problem == "" and raw.size == record.size
        np.testing.assert_array_equal(raw.tile, record.tile)
    else:
        assert raw.problem == str(cell.kind.words)


@pytest.mark.parametrize("cell", [c for c in CELLS if not c.kind.is_read and c.kind.plugin], ids=lambda cell: cell.name)
def test_the_client_converts_as_ingest_does(cell: Cell, outcomes: Any):
    _, content, _ = outcomes[cell.name]
    settings = config_of(cell.value_range).image
    if cell.shown is None:
        with pytest.raises(Refused) as refused:
            open_image(cell.file, settings)
        assert str(refused.value.words) == content
    else:
        assert served_bytes(cell.file, open_image(cell.file, settings)) == content.image
