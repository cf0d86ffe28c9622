"""What an encoded image says about itself, read from its bytes before anything is decoded; without TensorFlow.

`transform_module/headers.py` does the same for a batch inside the graph, by the same rules: a test compares both on
many thousand damaged files. TIFF and GIF are only told by their first bytes, as the graph decodes neither.

Sources: PNG (ISO/IEC 15948, 11.2.2; eXIf of the third edition), JPEG (ITU-T T.81, B.1.1 and B.2.2), BMP
(BITMAPINFOHEADER), WebP (RFC 9649), EXIF (JEITA CP-3451, 4.6).
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from flexunet.core import readable
from flexunet.core.readable import Kind

_SHORT, _LONG = 3, 4


class Header(NamedTuple):
    """Header of one file.

    Attributes:
      kind: the row of the table.
      width: as the file says, before turning, in pixels; 0 where it does not say.
      height: likewise.
      orientation: of EXIF, 1 to 8; 1 where there is none.
    """

    kind: Kind
    width: int = 0
    height: int = 0
    orientation: int = 1


class Segment(NamedTuple):
    """Segment of a JPEG, PNG or WebP: its marker or name, and where its content and it itself begin and end."""

    name: bytes
    start: int
    end: int
    content: int


def read_header(encoded: bytes) -> Header:
    """The header of any bytes; never raises. A size of 0 means a damaged file."""
    if not encoded:
        return Header(readable.EMPTY)
    kind = next((kind for magic, kind in readable.SIGNATURES if _starts(encoded, magic)), readable.UNKNOWN)
    parse = _PARSERS.get(kind)
    return parse(encoded) if parse else Header(kind)


def segments(encoded: bytes, kind: Kind) -> Iterator[Segment]:
    """What comes before the pixels: JPEG's segments up to the frame header, PNG's and WebP's chunks.

    The last one is the one that ends the walk: JPEG's frame header, PNG's IDAT. A walk that meets no such end, or more
    than `MOST_SEGMENTS`, yields an empty name at last.
    """
    walk = {readable.JPEG: _jpeg_segments, readable.PNG: _png_chunks, readable.WEBP: _webp_chunks}[kind]
    return walk(encoded)


def _starts(encoded: bytes, magic: bytes) -> bool:
    head = encoded[: len(magic)]
    return len(head) == len(magic) and all(m in (h, ord("?")) for h, m in zip(head, magic, strict=True))


def _jpeg_segments(encoded: bytes) -> Iterator[Segment]:
    position = 2
    for _ in range(readable.MOST_SEGMENTS):
        head = encoded[position : position + 4].ljust(4, b"\0")
        if position >= len(encoded) or head[0] != 0xFF or head[1] in readable.JPEG_SCAN_OR_END:
            break
        if head[1] == 0xFF:
            position += 1
            continue
        size = int.from_bytes(head[2:4], "big")
        end = position + 2 + size
        yield Segment(head[1:2], position, end, position + 4)
        if head[1] in readable.JPEG_FRAMES:
            return
        if size < 2:
            break
        position = end
    yield Segment(b"", position, position, position)


def _png_chunks(encoded: bytes) -> Iterator[Segment]:
    position = readable.FIRST_PNG_CHUNK
    for _ in range(readable.MOST_SEGMENTS):
        if position + 8 > len(encoded):
            break
        (size,) = struct.unpack_from(">I", encoded, position)
        name = encoded[position + 4 : position + 8]
        end = position + 12 + size
        if size >= 2**31:
            break
        yield Segment(name, position, end, position + 8)
        if name == b"IDAT":
            return
        position = end
    yield Segment(b"", position, position, position)


def _webp_chunks(encoded: bytes) -> Iterator[Segment]:
    position = readable.FIRST_WEBP_CHUNK
    for _ in range(readable.MOST_SEGMENTS):
        if position + 8 > len(encoded):
            break
        (size,) = struct.unpack_from("<I", encoded, position + 4)
        end = position + 8 + size + size % 2
        yield Segment(encoded[position : position + 4], position, end, position + 8)
        position = end


def _jpeg(encoded: bytes) -> Header:
    orientation, kind = None, readable.JPEG
    for name, _, end, content in segments(encoded, readable.JPEG):
        marker = name[0] if name else 0
        if marker == readable.JPEG_APP1 and orientation is None and encoded.startswith(readable.EXIF, content):
            orientation = _orientation(encoded[content + len(readable.EXIF) : end])
        if marker in readable.JPEG_FRAMES and content + 6 <= len(encoded):
            precision, height, width, channels = struct.unpack_from(">BHHB", encoded, content)
            kind = _jpeg_kind(marker, precision)
            size = (width, height) if channels in (1, 3, 4) else (0, 0)
            return Header(kind, *size, orientation or 1)
    return Header(kind)


def _jpeg_kind(marker: int, precision: int) -> Kind:
    if marker not in (*readable.JPEG_READ, readable.JPEG_LOSSLESS_MARKER):
        return readable.JPEG_RARE
    if precision != 8:
        return readable.JPEG_DEEP
    return readable.JPEG if marker in readable.JPEG_READ else readable.JPEG_LOSSLESS


def _png(encoded: bytes) -> Header:
    if encoded[8:16] != b"\0\0\0\rIHDR" or len(encoded) < readable.FIRST_PNG_CHUNK:
        return Header(readable.PNG)
    width, height, depth, color = struct.unpack_from(">IIBB", encoded, 16)
    kind = readable.PNG
    if depth == 16:
        kind = readable.PNG_DEEP if color == 0 else readable.PNG_DEEP_COLOR
    orientation = None
    for name, _, end, content in segments(encoded, readable.PNG):
        if name == b"acTL":
            return Header(readable.PNG_ANIMATED, width, height)
        if name == b"eXIf" and orientation is None:
            orientation = _orientation(encoded[content : end - 4])
        if not name:
            return Header(kind)
    return Header(kind, width, height, orientation or 1)


def _bmp(encoded: bytes) -> Header:
    head = encoded[:54].ljust(54, b"\0")
    (size,) = struct.unpack_from("<I", head, 14)
    if size == 12:
        width, height, _, _ = struct.unpack_from("<HHHH", head, 18)
        return Header(readable.BMP_RARE, width, height)
    if size < 40:
        return Header(readable.BMP_RARE)
    width, height = struct.unpack_from("<ii", head, 18)
    bits, compression = struct.unpack_from("<HI", head, 28)
    kind = readable.BMP_RARE
    if compression == 0:
        kind = {8: readable.BMP_INDEXED, 24: readable.BMP, 32: readable.BMP}.get(bits, kind)
    return Header(kind, max(0, width), abs(height))


def _webp(encoded: bytes) -> Header:
    head = encoded[:30].ljust(30, b"\0")
    name = head[12:16]
    if name == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", head, 26)
        return Header(readable.WEBP, width & 0x3FFF, height & 0x3FFF)
    if name == b"VP8L" and head[20] == 0x2F:
        (packed,) = struct.unpack_from("<I", head, 21)
        return Header(readable.WEBP, (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1)
    if name != b"VP8X":
        return Header(readable.WEBP)
    width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
    if head[20] & readable.WEBP_MOVES:
        return Header(readable.WEBP_ANIMATED, width, height)
    exif = next((s for s in segments(encoded, readable.WEBP) if s.name == b"EXIF"), None)
    orientation = _orientation(encoded[exif.content : exif.end]) if exif else 1
    return Header(readable.WEBP, width, height, orientation)


_PARSERS: Final = {readable.JPEG: _jpeg, readable.PNG: _png, readable.BMP: _bmp, readable.WEBP: _webp}


def _orientation(block: bytes) -> int:
    """The orientation in IFD0 of a TIFF block, 1 to 8; 1 where it is not told, or not as the standard has it.

    Only the directory that the header points to is looked at, and only within the block: nothing is followed.
    """
    block = block.removeprefix(readable.EXIF)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None or len(block) < 8:
        return 1
    (offset,) = struct.unpack_from(f"{order}I", block, 4)
    if offset + 2 > len(block):
        return 1
    (count,) = struct.unpack_from(f"{order}H", block, offset)
    for index in range(min(count, readable.MOST_EXIF_ENTRIES)):
        at = offset + 2 + 12 * index
        if at + 12 > len(block):
            return 1
        tag, kind, number = struct.unpack_from(f"{order}HHI", block, at)
        if tag == readable.ORIENTATION_TAG:
            value = _exif_number(order, kind, block[at + 8 : at + 12])
            return value if number == 1 and 1 <= value <= 8 else 1
    return 1


def _exif_number(order: str, kind: int, value: bytes) -> int:
    if kind == _SHORT:
        return struct.unpack_from(f"{order}H", value)[0]
    return struct.unpack(f"{order}I", value)[0] if kind == _LONG else 0
