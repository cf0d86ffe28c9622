"""Damaged files of every readable format through ingest's reader and through the graph: they agree, or both refuse.

A minute by default; `FUZZ_EXAMPLES=10000` for an hour.
"""

import io
import os
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from picture_files import bmp, exif, lossless_jpeg, png, png_chunk, with_app1, with_chunk
from pictures import encoded
from PIL import Image

from flexunet.core import readable
from flexunet.core.config.data import ImageConfig
from flexunet.core.headers import read_header
from flexunet.core.pictures import Refused, open_image
from transform_module.headers import place, read_headers
from transform_module.images import decode_rows

SIDE = 32
# Small: a header that lies must not cost gigabytes in every example.
# And one tile an image, in which it stands as it is.
SETTINGS = ImageConfig(height=SIDE, width=SIDE, fit="tile", tile_overlap=0, max_pixels=SIDE * SIDE)
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
BATCH = 24
FUZZED = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES <= 60, suppress_health_check=list(HealthCheck)
)


def files() -> dict[str, bytes]:
    rows, columns = np.indices((12, 20))
    rgb = np.stack([40 + 9 * columns, 60 + 9 * rows, 30 + 4 * rows + 3 * columns], axis=-1).astype(np.uint8)
    grey, block = rgb[..., 0], exif(6)
    few = (grey // 16).astype(np.uint8)
    colors = np.arange(48, dtype=np.uint8).reshape(16, 3) * 5
    alpha = np.dstack([rgb, grey])
    plain = encoded(rgb, "PNG")
    palette = Image.fromarray(few, "P")
    palette.putpalette(colors.tobytes())
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=3)
    return {
        "PNG": plain,
        "turned PNG": plain[:33] + png_chunk(b"eXIf", block) + plain[33:],
        "PNG with alpha": encoded(alpha, "PNG"),
        "palette PNG": buffer.getvalue(),
        "deep PNG": encoded(grey.astype(np.uint16) * 257, "PNG"),
        "deep RGB PNG": png(rgb.astype(np.uint16) * 257, 2, 16),
        "JPEG": encoded(rgb, "JPEG"),
        "turned JPEG": with_app1(encoded(rgb, "JPEG", progressive=True), b"Exif\0\0" + block),
        "CMYK JPEG": encoded(rgb, "JPEG", "CMYK"),
        "lossless JPEG": lossless_jpeg(grey),
        "BMP": bmp(rgb, 24),
        "BMP of 32 bits": bmp(rgb, 32, top_down=True),
        "palette BMP": bmp(few, 8, colors),
        "BMP of 4 bits": bmp(few, 4, colors),
        "WebP": encoded(rgb, "WEBP"),
        "turned WebP": with_chunk(encoded(rgb, "WEBP", lossless=True), b"EXIF", block),
        "WebP with alpha": encoded(alpha, "WEBP", exif=b"Exif\0\0" + block),
        "TIFF": encoded(rgb, "TIFF"),
        "GIF": encoded(grey, "GIF"),
    }


FILES = files()
_BYTES = st.binary(min_size=1, max_size=8)
# Where, in shares of the file, and what: most of what matters stands in the first fifth.
_PLACES = st.one_of(st.floats(0, 0.2), st.floats(0, 1))
CHANGES = st.lists(
    st.tuples(st.sampled_from(["set", "insert", "delete", "flip", "cut"]), _PLACES, _BYTES), min_size=0, max_size=3
)
BATCHES = st.lists(st.tuples(st.sampled_from(sorted(FILES)), CHANGES), min_size=BATCH, max_size=BATCH)

# What an hour of it found: 700,000 files.
FOUND = [
    # A header of more rows of pixels than there are, one whose area is more than int64 holds, one that is turned.
    ("BMP of 32 bits", [("set", 0.015625, b"\0\0\0!")]),
    ("PNG with alpha", [("set", 0.171875, b"\x8ex5f\xe6")]),
    ("turned PNG", [("set", 0.125, b"\1")]),
    # Rubbish between two tables, which libjpeg skips.
    ("CMYK JPEG", [("delete", 0.248046875, bytes(8))]),
    # A chunk of no bytes, and one of alpha that the header does not announce.
    ("WebP", [("set", 0.15625, b"\0")]),
    ("WebP with alpha", [("set", 0.09375, b"\0\0\1")]),
]


def damaged(name: str, changes: list[tuple[str, float, bytes]]) -> bytes:
    content = bytearray(FILES[name])
    for what, share, new in changes:
        at = min(int(share * len(content)), max(0, len(content) - 1))
        if what == "set":
            content[at : at + len(new)] = new
        elif what == "insert":
            content[at:at] = new
        elif what == "delete":
            del content[at : at + len(new)]
        elif what == "cut":
            del content[at:]
        elif content:
            content[at] ^= 1 << new[0] % 8
    return bytes(content)


def padded(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image.convert("RGB"))
    return np.pad(pixels, ((0, SIDE - pixels.shape[0]), (0, SIDE - pixels.shape[1]), (0, 0)))


@pytest.fixture(scope="module")
def graph() -> Any:
    signature = [tf.TensorSpec([None], tf.string)]
    return (
        tf.function(lambda rows: read_headers(rows, SETTINGS.max_pixels), input_signature=signature),
        tf.function(lambda rows: decode_rows(rows, SETTINGS), input_signature=signature),
    )


@FUZZED
@given(batch=BATCHES)
def test_headers_are_read_alike(graph: Any, batch: Any) -> None:
    contents = [damaged(*item) for item in batch]
    found = graph[0](tf.constant(contents))
    for index, content in enumerate(contents):
        header = read_header(content)
        assert readable.KINDS[found.kind[index]] is header.kind
        if header.kind.is_read and header.width > 0 and header.height > 0:
            size = (header.height, header.width)[:: -1 if header.orientation >= 5 else 1]
            assert (found.height[index], found.width[index], found.orientation[index]) == (*size, header.orientation)


def _reading(content: bytes) -> Image.Image | str:
    try:
        return open_image(content, SETTINGS).image
    except Refused as refused:
        return str(refused.words)


@FUZZED
@example(batch=FOUND)
@given(batch=BATCHES)
def test_files_are_read_alike_or_refused_alike(graph: Any, batch: Any) -> None:
    contents = [damaged(*item) for item in batch]
    tiles, sizes, problems = (values.numpy() for values in graph[1](tf.constant(contents)))
    for index, content in enumerate(contents):
        kind, problem, ours = read_header(content).kind, problems[index].decode(), _reading(content)
        if isinstance(ours, str) and kind.is_read:
            assert problem == ours
        elif isinstance(ours, str) or not kind.is_read:
            assert problem
        else:
            assert (problem, tuple(sizes[index])) == ("", ours.size[::-1])
            # Damaged JPEGs are garbage to both: each decoder clips it differently, and records hold the file itself.
            if kind is not readable.JPEG:
                np.testing.assert_array_equal(tiles[index, 0], padded(ours))


def test_place_is_the_number_of_a_kind() -> None:
    assert [place(kind) for kind in readable.KINDS] == list(range(len(readable.KINDS)))
