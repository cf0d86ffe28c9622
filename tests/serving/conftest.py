"""Broken, hostile and odd images, an export whose answers are known, and a process that measures it."""

import functools
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import encoded
from PIL import Image

from flexunet.serving.server import Server

SIZE = 48


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(width: int, height: int) -> bytes:
    """A valid RGB PNG of zeros, compressed a thousandfold: 13000x13000 in half a megabyte."""
    packer = zlib.compressobj(9)
    row = b"\0" * (1 + 3 * width)
    content = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def picture() -> np.ndarray:
    """Pure blue, green and red blocks on black: what `color_reader` reads as classes 1, 2, 3."""
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    for class_id, channel in ((1, 2), (2, 1), (3, 0)):
        pixels[8 * class_id : 8 * class_id + 6, 4:30, channel] = 255
    return pixels


def truncations(encoded: bytes, name: str) -> dict[str, bytes]:
    """Cut at every chunk of a PNG: behind the signature, each length, kind, content and checksum."""
    ends, position = {8}, 8
    while position < len(encoded):
        (length,) = struct.unpack_from(">I", encoded, position)
        ends |= {position + 4, position + 8, position + 8 + length // 2, position + 8 + length}
        position += 12 + length
        ends.add(position)
    # Without the last chunk a PNG is whole: IEND has no content.
    body = encoded.index(b"IEND") - 4
    return {f"{name} cut at {end}": encoded[:end] for end in sorted(ends) if end < body}


def hostile() -> dict[str, bytes]:
    """Inputs by name, none of which has an answer."""
    pixels = picture()
    png = encoded(pixels, "PNG")
    jpeg, bmp = encoded(pixels, "JPEG"), encoded(pixels, "BMP")
    webp, lossless = encoded(pixels, "WEBP"), encoded(pixels, "WEBP", lossless=True)
    frames = [Image.fromarray(np.roll(pixels, shift, 0)) for shift in range(3)]
    moving = {}
    for kind in ("GIF", "WEBP"):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
        moving[f"animated {kind}"] = buffer.getvalue()
    random = np.random.default_rng(0).bytes
    return {
        **truncations(png, "PNG"),
        **{f"JPEG cut at {end}": jpeg[:end] for end in (2, 3, 20, 160, len(jpeg) // 2, len(jpeg) - 20)},
        **{f"BMP cut at {end}": bmp[:end] for end in (2, 20, 54, len(bmp) - 1)},
        **{f"WebP cut at {end}": webp[:end] for end in (4, 12, 20, 29, len(webp) // 2)},
        "lossless WebP cut": lossless[: len(lossless) // 2],
        **moving,
        "still GIF": encoded(pixels, "GIF"),
        "TIFF": encoded(pixels, "TIFF"),
        "PNG of 13000x13000": bomb(13000, 13000),
        "PNG of 2**31 by 2**31": png[:16] + struct.pack(">II", 2**31 - 1, 2**31 - 1) + png[24:],
        "PNG of no width": png[:16] + struct.pack(">I", 0) + png[20:],
        "PNG with wrong checksums": png.replace(b"IDAT", b"IDAx"),
        "JPEG that says 65535x65535": jpeg.replace(struct.pack(">HH", SIZE, SIZE), b"\xff\xff\xff\xff"),
        "JPEG of nothing but fillers": b"\xff\xd8" + b"\xff" * 5000,
        "JPEG of nothing but comments": b"\xff\xd8" + b"\xff\xfe\x00\x02" * 5000,
        "BMP that says 30000x30000": bmp[:18] + struct.pack("<ii", 30000, -30000) + bmp[26:],
        "WebP that says 16383x16383": webp[:26] + struct.pack("<HH", 16383, 16383) + webp[30:],
        "wrong magic": b"\x00" + png[1:],
        "magic only": b"\x89PNG\r\n\x1a\n",
        "text": b"not an image at all",
        "zeros": b"\0" * 1000,
        "random bytes": random(5000),
        "random bytes behind a PNG header": png[:33] + random(5000),
        "empty": b"",
        "one byte": b"\x89",
    }


def turned_jpeg(pixels: np.ndarray) -> bytes:
    """As a camera stores it that was held upright: a quarter turn to the left of what is to be seen."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(np.rot90(pixels), "JPEG", exif=exif)


def odd() -> dict[str, bytes]:
    """Unusual images that do have an answer."""
    pixels = picture()
    deep = (np.repeat(pixels[..., :1].astype(np.uint16), 1, -1)[..., 0] * 257).astype(np.uint16)
    return {
        "CMYK JPEG": encoded(pixels, "JPEG", "CMYK"),
        "16-bit PNG": encoded(deep, "PNG"),
        "grey PNG": encoded(pixels, "PNG", "L"),
        "palette PNG": encoded(pixels, "PNG", "P"),
        "PNG with alpha": encoded(pixels, "PNG", "RGBA"),
        "1x1": encoded(pixels[:1, :1], "PNG"),
        "1x3000": encoded(np.zeros((3000, 1, 3), np.uint8), "PNG"),
        "progressive JPEG": encoded(pixels, "JPEG", progressive=True),
        "JPEG with much metadata": encoded(pixels, "JPEG", comment=b"x" * 60000, icc_profile=b"y" * 200000),
        "lossless WebP": encoded(pixels, "WEBP", lossless=True),
        "WebP with alpha": encoded(pixels, "WEBP", "RGBA"),
        "lossy WebP": encoded(pixels, "WEBP"),
        "JPEG": encoded(pixels, "JPEG"),
        "BMP": encoded(pixels, "BMP"),
        "BMP with a palette": encoded(pixels, "BMP", "P"),
        "JPEG turned by EXIF": turned_jpeg(pixels),
        "WebP that is transparent": encoded(np.dstack([pixels, pixels[..., 0]]), "WEBP", lossless=True, exact=True),
    }


@pytest.fixture(scope="session")
def hostile_images() -> dict[str, bytes]:
    return hostile()


@pytest.fixture(scope="session")
def odd_images() -> dict[str, bytes]:
    return odd()


@pytest.fixture(scope="session")
def good_image() -> tuple[bytes, np.ndarray]:
    """A PNG and the class ids that `color_export` answers."""
    pixels = picture()
    truth = np.select([pixels[..., 2] > 0, pixels[..., 1] > 0, pixels[..., 0] > 0], [1, 2, 3]).astype(np.uint8)
    return encoded(pixels, "PNG"), truth


@pytest.fixture(scope="session")
def make_color_export(
    make_config: Any, color_reader: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """`make_color_export(fit="tile")`: a model folder with version 1 whose answers follow from the colours.

    Exported once for each set of arguments: nothing may write into it.
    """

    @functools.cache
    def make(**image: Any) -> Path:
        from flexunet.core.config.section import part_of
        from flexunet.core.config.train import TrainerConfig
        from trainer_module.export import export_model

        config = make_config(image={"height": SIZE, "width": SIZE, **image})
        directory = tmp_path_factory.mktemp("model") / "1"
        export_model(color_reader(SIZE), part_of(config, TrainerConfig), {"parameters": 16}, directory)
        return directory

    return make


@pytest.fixture(scope="session")
def color_export(make_color_export: Any) -> Path:
    return make_color_export()


@pytest.fixture(scope="module")
def server(color_export: Path) -> Iterator[Server]:
    """Our server of that export, on free ports."""
    with Server(color_export, grpc_port=0, rest_port=0) as running:
        yield running


@pytest.fixture(scope="session")
def make_bomb() -> Callable[[int, int], bytes]:
    return bomb
