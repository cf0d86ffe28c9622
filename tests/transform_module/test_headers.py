"""What an image's first bytes say, against what Pillow reads."""

import io
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from transform_module.headers import read_headers

SIZES = [(1, 1), (3, 700), (480, 640), (255, 257)]
KINDS: list[tuple[str, str, dict[str, Any]]] = [
    ("PNG", "RGB", {}),
    ("PNG", "P", {}),
    ("PNG", "I;16", {}),
    ("JPEG", "RGB", {}),
    ("JPEG", "L", {"progressive": True}),
    ("JPEG", "CMYK", {}),
    ("JPEG", "RGB", {"comment": b"x" * 60000, "icc_profile": b"y" * 200000}),
    ("BMP", "RGB", {}),
    ("BMP", "L", {}),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGB", {"lossless": True}),
    ("WEBP", "RGBA", {}),
    ("WEBP", "RGB", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}),
]


def encode(height: int, width: int, kind: str, mode: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height), 77).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("run", [lambda f: f, tf.function], ids=["eagerly", "in-a-graph"])
def test_the_size_is_what_pillow_reads(run: Any) -> None:
    encoded = [encode(*size, *kind) for size in SIZES for kind in KINDS]
    expected = [Image.open(io.BytesIO(one)).size for one in encoded]
    headers = run(lambda images: read_headers(images, 10**6))(tf.constant(encoded))
    assert list(zip(headers.width.numpy(), headers.height.numpy(), strict=True)) == expected
    assert set(headers.problem.numpy()) == {b""}


def test_rows_from_the_top_are_a_negative_height_in_bmp() -> None:
    bmp = encode(3, 5, "BMP", "RGB", {})
    flipped = bmp[:22] + (-3).to_bytes(4, "little", signed=True) + bmp[26:]
    headers = read_headers(tf.constant([flipped]), 100)
    assert (headers.height.numpy()[0], headers.problem.numpy()[0]) == (3, b"")


@pytest.mark.parametrize(
    ("pixels", "problem"),
    [
        (99, "10x10 pixels; expected at most 99 pixels (image.max_pixels): scale it down or raise the limit"),
        (100, ""),
    ],
)
def test_the_limit_is_inclusive(pixels: int, problem: str) -> None:
    headers = read_headers(tf.constant([encode(10, 10, "PNG", "L", {})]), pixels)
    assert headers.problem.numpy()[0].decode() == problem


def test_any_bytes_have_a_reason_or_a_size() -> None:
    generator = np.random.default_rng(0)
    starts = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"RIFF", b"RIFF0000WEBPVP8X", b"RIFF0000WEBPVP8 "]
    noise = [start + generator.bytes(int(generator.integers(0, 80))) for start in starts for _ in range(60)]
    headers = read_headers(tf.constant(noise), 10**6)
    good = headers.problem.numpy() == b""
    areas = headers.height.numpy() * headers.width.numpy()
    assert ((areas[good] > 0) & (areas[good] <= 10**6)).all()
    assert (~good).sum() > 200
