"""Files of kinds that Pillow cannot write: lossless JPEG, 16-bit colour PNG, odd BMPs, EXIF as it should not be."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def png_chunk(name: bytes, content: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(pixels: np.ndarray, color_type: int, depth: int, before: bytes = b"") -> bytes:
    """A PNG of any colour type, of 8 or 16 bits, from `[h, w]` or `[h, w, c]`; `before`: chunks before the pixels."""
    height, width = pixels.shape[:2]
    rows = pixels.astype(">u2" if depth == 16 else "u1").reshape(height, -1)
    content = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", header),
            before,
            png_chunk(b"IDAT", zlib.compress(content)),
            png_chunk(b"IEND", b""),
        ]
    )


def bmp(indices: np.ndarray, bits: int, palette: np.ndarray | None = None, top_down: bool = False) -> bytes:
    """An uncompressed BMP of 1, 4, 8, 16 (5 bits a channel), 24 or 32 bits.

    Args:
      indices: uint8 `[h, w]` for a palette, `[h, w, 3]` RGB else.
      bits: of a pixel.
      palette: RGB uint8 `[n, 3]`, for at most 8 bits.
      top_down: whether the first row comes first.
    """
    height, width = indices.shape[:2]
    rows = indices if top_down else indices[::-1]
    packed = b"".join(_bmp_row(row, bits) for row in rows)
    table = b"" if palette is None else b"".join(bytes([b, g, r, 0]) for r, g, b in palette.tolist())
    start = 54 + len(table)
    header = struct.pack(
        "<IiiHHIIiiII",
        40,
        width,
        -height if top_down else height,
        1,
        bits,
        0,
        len(packed),
        2835,
        2835,
        len(table) // 4,
        0,
    )
    return b"BM" + struct.pack("<IHHI", start + len(packed), 0, 0, start) + header + table + packed


def _bmp_row(row: np.ndarray, bits: int) -> bytes:
    if bits == 16:
        red, green, blue = (row[:, channel].astype(np.uint16) >> 3 for channel in range(3))
        content = (red << 10 | green << 5 | blue).astype("<u2").tobytes()
    elif bits > 16:
        blue_first = row[:, ::-1]
        content = (blue_first if bits == 24 else np.pad(blue_first, ((0, 0), (0, 1)))).tobytes()
    elif bits == 8:
        content = row.tobytes()
    else:
        ones = np.unpackbits(row[:, np.newaxis], axis=1)[:, 8 - bits :].ravel()
        content = np.packbits(ones).tobytes()
    return content + b"\0" * (-len(content) % 4)


def exif(orientation: int, order: str = "<", kind: int = 3) -> bytes:
    """A TIFF block with camera and orientation, as it stands in APP1 behind `Exif\\0\\0`."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    value = struct.pack(f"{order}HH", orientation, 0) if kind == 3 else struct.pack(f"{order}I", orientation)
    entries = [
        struct.pack(f"{order}HHI4s", 0x010F, 2, 4, b"cam\0"),
        struct.pack(f"{order}HHI", 0x0112, kind, 1) + value,
    ]
    return mark + struct.pack(f"{order}IH", 8, len(entries)) + b"".join(entries) + b"\0\0\0\0"


def with_app1(jpeg: bytes, content: bytes) -> bytes:
    """`jpeg` with an APP1 segment behind its start."""
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + jpeg[2:]


def with_chunk(riff: bytes, name: bytes, content: bytes) -> bytes:
    """A plain WebP in the extended form, with a chunk behind the pixels."""
    width, height = Image.open(io.BytesIO(riff)).size
    extended = struct.pack("<I", 0x08)[:4] + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    pixels = riff[12:] + b"\0" * (len(riff) % 2)
    body = b"WEBP" + _riff_chunk(b"VP8X", extended) + pixels + _riff_chunk(name, content)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _riff_chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def with_frame_marker(jpeg: bytes, marker: int, precision: int = 8) -> bytes:
    """`jpeg` whose frame header says another process; its entropy-coded data stay as they were."""
    at = next(i for i in range(2, len(jpeg)) if jpeg[i - 1] == 0xFF and jpeg[i] in (0xC0, 0xC1, 0xC2))
    return jpeg[:at] + bytes([marker]) + jpeg[at + 1 : at + 3] + bytes([precision]) + jpeg[at + 4 :]


def without_adobe(jpeg: bytes) -> bytes:
    """Without Adobe's segment, by which readers know that CMYK counts ink down from 255."""
    start = jpeg.index(b"\xff\xee\0\x0eAdobe")
    return jpeg[:start] + jpeg[start + 16 :]


def tiff(strips: list[bytes], size: tuple[int, int], bits: int, samples: int, tags: dict[int, int]) -> bytes:
    """A TIFF of RGB, or as `tags` (shorts, by number) say, whose strips are all rows of a plane; `size` is (w, h)."""
    starts = [8 + sum(map(len, strips[:index])) for index in range(len(strips))]
    told = {256: size[0], 257: size[1], 259: 1, 262: 2, 277: samples, 278: size[1], **tags}
    lists = {258: [bits] * samples, 273: starts, 279: [*map(len, strips)], **{tag: [n] for tag, n in told.items()}}
    directory = 8 + sum(map(len, strips))
    behind = directory + 2 + 12 * len(lists) + 4
    entries, extra = b"", b""
    for tag, numbers in sorted(lists.items()):
        values = struct.pack(f"<{len(numbers)}H", *numbers)
        where = values.ljust(4, b"\0") if len(values) <= 4 else struct.pack("<I", behind + len(extra))
        entries += struct.pack("<HHI", tag, 3, len(numbers)) + where
        extra += values if len(values) > 4 else b""
    head = b"II*\0" + struct.pack("<I", directory) + b"".join(strips)
    return head + struct.pack("<H", len(lists)) + entries + bytes(4) + extra


def lossless_jpeg(grey: np.ndarray) -> bytes:
    """Grey levels uint8 `[h, w]` as lossless JPEG: SOF3, first predictor, one Huffman table (ITU-T T.81, annex H)."""
    height, width = grey.shape
    levels = grey.astype(int)
    predicted = np.empty_like(levels)
    predicted[:, 1:] = levels[:, :-1]
    predicted[1:, 0] = levels[:-1, 0]
    predicted[0, 0] = 128
    bits = "".join(_difference(int(value)) for value in (levels - predicted).ravel())
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    # Sixteen codes of 5 bits at most: categories 0 to 8 as codes 0 to 8.
    table = bytes([0x00, 0, 0, 0, 0, 9, *[0] * 11, *range(9)])
    return b"".join(
        [
            b"\xff\xd8",
            b"\xff\xc3" + struct.pack(">HBHHB", 11, 8, height, width, 1) + bytes([1, 0x11, 0]),
            b"\xff\xc4" + struct.pack(">H", 2 + len(table)) + table,
            b"\xff\xda" + struct.pack(">HB", 8, 1) + bytes([1, 0x00, 1, 0, 0]),
            scan,
            b"\xff\xd9",
        ]
    )


def _difference(value: int) -> str:
    category = abs(value).bit_length()
    if not category:
        return format(0, "05b")
    return format(category, "05b") + format(value if value > 0 else value + 2**category - 1, f"0{category}b")
