"""Opens an image or a mask safely: the one place where a user's file meets Pillow.

The header is read first, by `flexunet.core.headers`: size, kind and orientation are known before anything is decoded,
and what is not in the table (`flexunet.core.readable`) never reaches a decoder. Metadata is cut out beforehand, so that
a damaged profile or comment does no harm, and only EXIF's orientation turns a picture.
"""

import io
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from flexunet.core import readable
from flexunet.core.config.data import ImageConfig
from flexunet.core.depth import UnknownRange, ValueRange, grey_levels
from flexunet.core.headers import Header, read_header, segments
from flexunet.core.readable import Kind, Words

# What Pillow raised on 30,000 corrupted files.
_READ_ERRORS: Final = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, OverflowError, EOFError)
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What begins with FF inside the pixels is a restart or a plain FF; everything else has a length, but for the end.
_JPEG_MARKER: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_JPEG_ANY_MARKER: Final = re.compile(rb"\xff[^\x00\xff]")
# Without a length: TEM and restarts.
_JPEG_ALONE: Final = (0x01, *range(0xD0, 0xD8))
# Comments and application data, but for JFIF's and Adobe's, which tell the colours.
_JPEG_METADATA: Final = frozenset({0xFE, *range(0xE1, 0xEE), 0xEF})
_WEBP_HAS_ALPHA: Final = b"\x10"
_PNG_INDEXED: Final = 3
_PNG_ONCE: Final = (b"IHDR", b"PLTE")
_PNG_CHUNKS: Final = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_DEEP_MODES: Final = ("I", "F")
# TIFF's tags, and the values that matter.
_SUBFILE, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 258, 259, 262
_PLANES, _EXTRA, _FORMAT = 284, 338, 339
_ALPHAS: Final = ((1,), (2,))
_REDUCED: Final = 1
_WHITE_IS_ZERO: Final = 0
_YCBCR, _LAB = 6, 8
_APART: Final = 2
_UNCOMPRESSED: Final = 1
_SIGNED: Final = 2
_LOSSLESS_TIFF: Final = frozenset({1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000})
_SAVE_AS_PNG: Final = ("a TIFF of grey, colour or palette", "save it as PNG")
_SAVE_COMPRESSED: Final = ("RGB, the channels of a pixel side by side", "save it as PNG, or with LZW")
_SAVE_CHANNELS: Final = ("grey or RGB", "save the channels that are meant as PNG")
_AS_PNG: Final = ("a whole file of that kind", "replace it, or save it as PNG")
# More pages than that are not looked at: one that is not a thumbnail is enough.
_MOST_PAGES: Final = 64


_Require = Callable[[int, int, int], None]


class Refused(Exception):
    """A file that is not read; `words` are those of the table, without the file's name."""

    def __init__(self, words: Words) -> None:
        self.words = words
        super().__init__(str(words))


@dataclass(frozen=True)
class Picture:
    """A decoded file, upright.

    Attributes:
      kind: its row of the table.
      image: loaded; of any of Pillow's modes for a mask, `L` or `RGB` of 8 bits for an image.
      orientation: of EXIF, 1 to 8, by which it was turned.
      bits: of a channel, in the file; 32 and more for floats and large integers.
      lossy: whether the file's compression changes values.
      inverted: whether 0 is white in the file, and still in `image`.
      unlisted: the highest index of a pixel, where that is more than the palette has; every reader shows it as black.
    """

    kind: Kind
    image: Image.Image
    orientation: int
    bits: int
    lossy: bool
    inverted: bool = False
    unlisted: int | None = None


def open_image(encoded: bytes, settings: ImageConfig) -> Picture:
    """An image as the model sees it, before it is brought to the model's size.

    Raises:
      Refused: says why, as the graph of a served model does.
    """
    picture = _open(encoded, partial(_require_fitting, settings=settings))
    if not picture.kind.is_read:
        _require_listed(picture)
    try:
        image = _eight_bits(picture, settings.value_range)
    except UnknownRange as unknown:
        raise Refused(unknown.words) from None
    return replace(picture, image=image, inverted=False)


def open_mask(encoded: bytes, max_pixels: int) -> Picture:
    """A mask's numbers or colours as the file has them, upright.

    Raises:
      Refused: not one whole picture, or one of indices that its palette does not have.
    """
    picture = _open(encoded, partial(_require_size, max_pixels=max_pixels))
    _require_listed(picture)
    return picture


def is_lossy(encoded: bytes) -> bool:
    """Whether a file of JPEG or WebP has a compression that changes values."""
    return _is_lossy(encoded, read_header(encoded).kind)


def served_bytes(encoded: bytes, picture: Picture) -> bytes:
    """What a served model reads: the file itself, or a PNG of it where the table says that it is converted."""
    return encoded if picture.kind.is_read else png(picture.image)


def png(image: Image.Image) -> bytes:
    """The image as PNG, without metadata."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _open(encoded: bytes, require: _Require) -> Picture:
    """`require` is told width, height and orientation before anything is decoded."""
    header = read_header(encoded)
    kind = header.kind
    if kind.plugin is None and kind.words is not None:
        raise Refused(kind.words)
    if kind in (readable.TIFF, readable.GIF):
        return _open_container(encoded, kind, require)
    if header.width <= 0 or header.height <= 0:
        raise Refused(readable.DAMAGED)
    require(header.width, header.height, header.orientation)
    image = _decode(encoded, header)
    if image.size != (header.width, header.height):
        raise Refused(readable.DAMAGED)
    upright = image.transpose(_TURNS[header.orientation]) if header.orientation > 1 else image
    bits, lossy = _bits(encoded, image, kind), _is_lossy(encoded, kind)
    return Picture(kind, upright, header.orientation, bits, lossy, unlisted=_unlisted(image))


def _unlisted(image: Image.Image) -> int | None:
    if image.mode not in ("P", "PA"):
        return None
    highest: Any = (image if image.mode == "P" else image.getchannel(0)).getextrema()
    return highest[1] if highest[1] >= len(image.getpalette() or ()) // 3 else None


def _require_listed(picture: Picture) -> None:
    if picture.unlisted is not None:
        raise Refused(readable.unlisted(picture.unlisted, len(picture.image.getpalette() or ()) // 3))


def _require_size(width: int, height: int, orientation: int, max_pixels: int) -> None:
    del orientation
    if width * height > max_pixels:
        raise Refused(readable.too_large(width, height, max_pixels))


def _require_fitting(width: int, height: int, orientation: int, settings: ImageConfig) -> None:
    _require_size(width, height, orientation, settings.max_pixels)
    upright = (height, width) if orientation >= readable.FIRST_LYING else (width, height)
    covered = max(upright[0], settings.width) * max(upright[1], settings.height)
    if settings.fit == "tile" and covered > settings.max_pixels:
        raise Refused(readable.sliver(settings.max_pixels))


def _bits(encoded: bytes, image: Image.Image, kind: Kind) -> int:
    if kind.plugin == "PNG":
        return encoded[24]
    return 1 if image.mode == "1" else 8


def _is_lossy(encoded: bytes, kind: Kind) -> bool:
    if kind is readable.WEBP:
        return b"VP8L" not in (encoded[12:16], *(s.name for s in segments(encoded, kind)))
    return kind in (readable.JPEG, readable.JPEG_LOSSLESS)


def _decode(encoded: bytes, header: Header) -> Image.Image:
    """The pixels, as they are stored."""
    kind = header.kind
    if kind in (readable.BMP, readable.BMP_INDEXED):
        return _decode_bmp(encoded, header)
    if kind.plugin == "PNG":
        encoded = _bare_png(encoded)
    elif kind.plugin == "JPEG":
        encoded = _bare_jpeg(encoded)
    elif kind.plugin == "WEBP":
        encoded = _bare_webp(encoded)
    problem = readable.DAMAGED if kind.is_read else Words(f"a {kind.name} that is damaged or unknown", *_AS_PNG)
    image = _loaded(_opened(encoded, kind, problem), problem)
    # Adobe's programs count ink down from 255, and say that they wrote a file; Pillow takes every JPEG for theirs.
    return ImageChops.invert(image) if image.mode == "CMYK" and "adobe" not in image.info else image


def _opened(encoded: bytes, kind: Kind, problem: Words) -> Image.Image:
    # Pillow only warns up to twice its own limit: ours is checked instead, and always.
    Image.MAX_IMAGE_PIXELS = None
    try:
        return Image.open(io.BytesIO(encoded), formats=[kind.plugin or ""])
    except _READ_ERRORS:
        raise Refused(problem) from None


def _loaded(image: Image.Image, problem: Words = readable.DAMAGED) -> Image.Image:
    try:
        image.load()
    except (*_READ_ERRORS, zlib.error, MemoryError):
        raise Refused(problem) from None
    return image


def _bare_png(encoded: bytes) -> bytes:
    """Without what is not needed for the pixels; checksums are checked, as libpng does, and Pillow does not.

    Raises:
      Refused: a checksum that is wrong, a chunk that no reader knows, a header or palette twice, an indexed picture
        without a palette, or an end that is missing.
    """
    kept, position, name = [encoded[:8]], 8, b""
    sizes: dict[bytes, int] = {}
    while name != b"IEND":
        size, name = int.from_bytes(encoded[position : position + 4], "big"), encoded[position + 4 : position + 8]
        end = position + 12 + size
        needed = name[:1].isupper()
        if end > len(encoded) or not name.isalpha() or (needed and name not in _PNG_CHUNKS):
            raise Refused(readable.DAMAGED)
        if name in sizes and name in _PNG_ONCE:
            raise Refused(readable.DAMAGED)
        if needed or name == b"tRNS":
            whole = zlib.crc32(memoryview(encoded)[position + 4 : end - 4]).to_bytes(4, "big") == encoded[end - 4 : end]
            if needed and not whole:
                raise Refused(readable.DAMAGED)
            kept += [encoded[position:end]] if whole else []
        sizes.setdefault(name, size)
        position = end
    if encoded[25] == _PNG_INDEXED and not _has_palette(sizes):
        raise Refused(readable.DAMAGED)
    return b"".join(kept)


def _has_palette(sizes: Mapping[bytes, int]) -> bool:
    """Whether a palette of whole colours comes before the pixels; sizes of a PNG's chunks are in their order."""
    names = [*sizes]
    return b"PLTE" in names[: names.index(b"IDAT")] and sizes[b"PLTE"] > 0 and sizes[b"PLTE"] % 3 == 0


def _bare_jpeg(encoded: bytes) -> bytes:
    """Without comments and application data, but for those that tell the colours: JFIF's and Adobe's.

    Raises:
      Refused: the end is missing.
    """
    kept = [encoded[:2]]
    position = 2
    for name, start, end, _ in segments(encoded, readable.JPEG):
        position = start
        if name and name[0] in readable.JPEG_FRAMES:
            break
        if name and name[0] not in _JPEG_METADATA:
            kept.append(encoded[start:end])
    if not _has_end(encoded, position):
        raise Refused(readable.DAMAGED)
    return b"".join([*kept, *_tables_and_scans(encoded, position)])


def _tables_and_scans(encoded: bytes, position: int) -> Iterator[bytes]:
    """A JPEG's segments from the frame header on; what lies between two before the scan is skipped, as libjpeg does."""
    while found := _JPEG_ANY_MARKER.search(encoded, position):
        marker, position = found[0][1], found.end()
        if marker in readable.JPEG_SCAN_OR_END:
            yield encoded[found.start() :]
            break
        if marker not in _JPEG_ALONE:
            position += int.from_bytes(encoded[position : position + 2], "big")
            if marker not in _JPEG_METADATA:
                yield encoded[found.start() : position]


def _has_end(encoded: bytes, position: int) -> bool:
    """Whether the markers from a JPEG's frame header on lead to its end; Pillow stops where the pixels do."""
    while found := _JPEG_MARKER.search(encoded, position):
        if found[0] == b"\xff\xd9":
            return True
        position = found.end() + int.from_bytes(encoded[found.end() : found.end() + 2], "big")
    return False


def _bare_webp(encoded: bytes) -> bytes:
    """The chunk of pixels alone, or with that of alpha: libwebp's plain decoder, TensorFlow's, looks at no other.

    That decoder takes all to the end of the file for pixels, whatever the chunk says, but that it is longer than the
    first partition (RFC 6386, 9.1), and so does this.

    Raises:
      Refused: the file is shorter than it says.
    """
    size = int.from_bytes(encoded[4:8], "little")
    encoded = encoded[: size + 8]
    chunks = list(segments(encoded, readable.WEBP))
    pixels = next((s for s in chunks if s.name in (b"VP8 ", b"VP8L")), None)
    if len(encoded) < size + 8 or pixels is None or pixels.end > len(encoded):
        raise Refused(readable.DAMAGED)
    content = encoded[pixels.content :]
    told = int.from_bytes(encoded[pixels.start + 4 : pixels.content], "little")
    if pixels.name == b"VP8 " and int.from_bytes(content[:3], "little") >> 5 >= told:
        raise Refused(readable.DAMAGED)
    content += b"\0" * (len(content) % 2)
    body = b""
    if any(s.name == b"ALPH" for s in chunks):
        # Pillow's decoder believes what the extended header says of the file, the plain one looks.
        body = encoded[12:20] + _WEBP_HAS_ALPHA + encoded[21 : pixels.start]
    body += pixels.name + len(content).to_bytes(4, "little") + content
    return b"RIFF" + (len(body) + 4).to_bytes(4, "little") + b"WEBP" + body


def _decode_bmp(encoded: bytes, header: Header) -> Image.Image:
    """Uncompressed, of 8, 24 or 32 bits: Pillow and TensorFlow disagree on damaged headers."""
    bits, start = int.from_bytes(encoded[28:30], "little"), int.from_bytes(encoded[10:14], "little", signed=True)
    row = (bits // 8 * header.width + 3) // 4 * 4
    if start < 0 or start + row * header.height > len(encoded):
        raise Refused(readable.DAMAGED)
    rows = np.frombuffer(encoded, np.uint8, row * header.height, start).reshape(header.height, row)
    rows = rows[:, : bits // 8 * header.width]
    from_the_top = int.from_bytes(encoded[22:26], "little", signed=True) < 0
    rows = rows if from_the_top else rows[::-1]
    if bits == 8:
        return _indexed(encoded, rows)
    return Image.fromarray(np.ascontiguousarray(rows.reshape(header.height, header.width, -1)[..., 2::-1]))


def _indexed(encoded: bytes, indices: NDArray[np.uint8]) -> Image.Image:
    """The picture as Pillow has it: grey where the palette is that of grey levels, else with a palette."""
    start, colors = 14 + int.from_bytes(encoded[14:18], "little"), int.from_bytes(encoded[46:50], "little") or 256
    palette = np.frombuffer(encoded[start : start + 4 * min(colors, 256)].ljust(1024, b"\0"), np.uint8).reshape(256, 4)
    if indices.max() >= min(colors, (len(encoded) - start) // 4):
        raise Refused(readable.DAMAGED)
    rgb = np.ascontiguousarray(palette[:, 2::-1])
    used = np.unique(indices)
    image = Image.fromarray(np.ascontiguousarray(indices))
    if (rgb[used] == used[:, np.newaxis]).all():
        return image
    image.putpalette(rgb.tobytes())
    return image


def _open_container(encoded: bytes, kind: Kind, require: _Require) -> Picture:
    """A TIFF or GIF."""
    rare = Words(f"a {kind.name} that is damaged or of a rare kind", *_SAVE_AS_PNG)
    opened: Any = _opened(encoded, kind, rare)
    try:
        several = _has_more_pages(opened)
        tags = opened.tag_v2 if kind is readable.TIFF else {}
        bits, orientation = _tag(tags, _BITS, 1 if tags else 8), _tag(tags, readable.ORIENTATION_TAG, 1)
        signed, compression = _tag(tags, _FORMAT, 1) == _SIGNED, _tag(tags, _COMPRESSION, 1)
        photometric, apart = _tag(tags, _PHOTOMETRIC, 1), _tag(tags, _PLANES, 1) == _APART
        reduced = _tag(tags, _SUBFILE, 0) & _REDUCED
        extra = tags.get(_EXTRA, ())
    except _READ_ERRORS:
        raise Refused(readable.DAMAGED) from None
    if several:
        raise Refused(Words(f"a {kind.name} of several pictures", "a single picture", readable.SAVE_ONE))
    if reduced:
        what = "a TIFF whose first picture is a thumbnail"
        raise Refused(Words(what, "the picture itself to come first", readable.SAVE_ONE))
    if signed and bits == 8:
        raise Refused(Words("a TIFF of signed bytes", *_SAVE_AS_PNG))
    # Pillow leaves compressed ones to libtiff, and takes these for something else.
    misread = photometric == _YCBCR or (apart and (bits > 8 or photometric == _LAB))
    if tags and compression == _UNCOMPRESSED and misread:
        raise Refused(Words("an uncompressed TIFF of YCbCr, or whose deep channels lie apart", *_SAVE_COMPRESSED))
    if extra and extra not in _ALPHAS:
        raise Refused(Words("a TIFF with channels beside colour and alpha, such as infrared", *_SAVE_CHANNELS))
    # Of a TIFF Pillow tells the upright size.
    require(opened.width, opened.height, 1)
    # Pillow turns TIFFs by itself, and by XMP too, which no other reader of ours looks at.
    opened.info.pop("xmp", None)
    image = _loaded(opened, rare)
    turned = orientation if 1 <= orientation <= 8 else 1
    lossy = kind is readable.TIFF and compression not in _LOSSLESS_TIFF
    counts_down = photometric == _WHITE_IS_ZERO and image.mode.startswith(_DEEP_MODES)
    return Picture(kind, image, turned, bits, lossy, counts_down, _unlisted(image))


def _tag(tags: Any, number: int, otherwise: int) -> int:
    value = tags.get(number, otherwise)
    return int(max(value) if isinstance(value, tuple) else value)


def _has_more_pages(opened: Any) -> bool:
    """Whether a container holds another picture than the first and reduced copies of it."""
    found = False
    for index in range(1, _MOST_PAGES):
        try:
            opened.seek(index)
        except EOFError:
            break
        if not (hasattr(opened, "tag_v2") and _tag(opened.tag_v2, _SUBFILE, 0) & _REDUCED):
            found = True
            break
    opened.seek(0)
    return found


def _eight_bits(picture: Picture, value_range: ValueRange | None) -> Image.Image:
    """Grey or RGB of 8 bits; alpha is dropped."""
    image = picture.image
    if image.mode.startswith(_DEEP_MODES):
        bits = picture.bits if image.mode.startswith("I;16") else 0
        levels = grey_levels(np.asarray(image), bits, value_range)
        return Image.fromarray(255 - levels if picture.inverted else levels)
    if picture.bits == 16:
        _require_whole_16_bits(image, value_range)
    if image.mode in ("1", "L", "LA"):
        return image.convert("L")
    try:
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError:
        raise Refused(Words(f"colours of the kind {image.mode}", "grey or RGB", "save it as PNG")) from None


def _require_whole_16_bits(image: Image.Image, value_range: ValueRange | None) -> None:
    """Of colours of 16 bits Pillow gives only the high bytes."""
    if value_range not in (None, readable.FULL_16_BITS):
        raise Refused(readable.DEEP_COLOR_RANGE)
    highest: Any = image.convert("RGB").getextrema()
    top = max(high for _, high in highest)
    if value_range is None and 256 * top < readable.LEAST_OF_16_BITS:
        raise Refused(readable.UNUSED_16_BITS)
