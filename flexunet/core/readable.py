"""The one table of what can be read: kinds of files, and what becomes of each.

`flexunet.core.headers` tells the kind of a file from its bytes, `transform_module.headers` does the same inside the
graph, and both look here. A kind is read by all, or converted by `flexunet ingest` and `flexunet predict` to what all
read, or refused by all in the same words. docs/reference/reading.md is generated from this module.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple


class Words(NamedTuple):
    """Why a file is refused, in one line: what it is, what was expected, how to repair it."""

    what: str
    expected: str
    repair: str

    def __str__(self) -> str:
        return f"{self.what}; expected {self.expected}: {self.repair}"


class Verdict(StrEnum):
    """What becomes of a kind of file."""

    READ = "read by all, stored byte for byte"
    CONVERTED = "converted to PNG by ingest and predict, refused by a server"
    REFUSED = "refused by all"


@dataclass(frozen=True)
class Kind:
    """A row of the table.

    Attributes:
      name: in words, as counts on the terminal and in `dataset.json` call it.
      verdict: what becomes of images of this kind.
      words: what a server says of it, and everybody where it is refused; None where it is read.
      plugin: the name of Pillow's reader; None where nothing is to be decoded.
      suffix: `image/format` in the records.
      note: how it is read, for the reference page.
    """

    name: str
    verdict: Verdict
    words: Words | None = None
    plugin: str | None = None
    suffix: str = ""
    note: str = ""

    @property
    def is_read(self) -> bool:
        """Whether the graph decodes it."""
        return self.verdict is Verdict.READ


JPEG_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".jpe", ".jfif"})
IMAGE_SUFFIXES: Final = JPEG_SUFFIXES | {".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"}

_PICTURE: Final = "a PNG, JPEG, BMP or WebP picture"
_AS_PNG: Final = "save it as PNG"
_CONVERT: Final = "`flexunet ingest` and `flexunet predict` convert it; for a server save it as PNG"
_ONE: Final = "a single picture"
SAVE_ONE: Final = "save the picture that is meant as a file of its own"


def _read(name: str, plugin: str, suffix: str, note: str) -> Kind:
    return Kind(name, Verdict.READ, None, plugin, suffix, note)


def _converted(name: str, plugin: str, note: str) -> Kind:
    return Kind(name, Verdict.CONVERTED, Words(f"a {name}", _PICTURE, _CONVERT), plugin, "png", note)


def _refused(name: str, what: str, expected: str = _PICTURE, repair: str = _AS_PNG) -> Kind:
    return Kind(name, Verdict.REFUSED, Words(what, expected, repair))


PNG: Final = _read(
    "PNG",
    "PNG",
    "png",
    "grey, colour or palette, 1 to 8 bits, interlaced too; alpha is dropped; an index that the palette does not have "
    "is black, of which ingest warns (in a mask it is refused)",
)
PNG_DEEP: Final = _read("grey PNG of 16 bits", "PNG", "png", "scaled by `image.value_range`, see below")
PNG_DEEP_COLOR: Final = _read(
    "colour PNG of 16 bits", "PNG", "png", "its high bytes, so `image.value_range` must be unset or [0, 65535]"
)
PNG_ANIMATED: Final = _refused("animated PNG", "an animated PNG", _ONE, SAVE_ONE)
JPEG: Final = _read(
    "JPEG",
    "JPEG",
    "jpeg",
    "Huffman or arithmetic, sequential or progressive (SOF 0, 1, 2, 9, 10), grey, YCbCr, RGB, CMYK, YCCK; "
    "of several pictures, as phones write them, the first",
)
JPEG_LOSSLESS: Final = _converted("lossless JPEG", "JPEG", "SOF 3 of 8 bits, as scanners and DICOM exports write it")
JPEG_DEEP: Final = _refused("JPEG of more than 8 bits", "a JPEG of more than 8 bits a channel", "8 bits")
JPEG_RARE: Final = _refused(
    "hierarchical JPEG and the like",
    "a JPEG of a process that no reader here knows (hierarchical, differential, arithmetic lossless, JPEG-LS)",
    "a baseline or progressive JPEG",
)
BMP: Final = _read("BMP", "BMP", "bmp", "24 or 32 bits, uncompressed, from the bottom or from the top")
BMP_INDEXED: Final = _read("BMP with a palette", "BMP", "bmp", "8 bits, uncompressed; the palette's colours are read")
BMP_RARE: Final = _converted("BMP of a rare kind", "BMP", "1, 4 or 16 bits, run-length encoded, bit fields, OS/2")
WEBP: Final = _read("WebP", "WEBP", "webp", "lossy or lossless; alpha is dropped")
WEBP_ANIMATED: Final = _refused("animated WebP", "an animated WebP", _ONE, SAVE_ONE)
TIFF: Final = _converted(
    "TIFF",
    "TIFF",
    "grey, colour, palette, CMYK, with alpha but no other channels; any lossless or lossy compression (YCbCr, and "
    "deep channels that lie apart, only compressed); thumbnails beside the picture are left out; other numbers than 8 "
    "bits by `image.value_range`, see below",
)
GIF: Final = _converted("GIF", "GIF", "one frame")
EMPTY: Final = _refused("empty file", "no bytes", repair="copy it again")
UNKNOWN: Final = _refused("anything else", "no picture by its first bytes")
HTML: Final = _refused("HTML page", "an HTML page, as failed downloads leave it", repair="download it again")
LFS: Final = _refused("Git LFS pointer", "a Git LFS pointer in the place of the file", repair="run `git lfs pull`")
XML: Final = _refused(
    "XML or SVG", "an XML document, as stores answer where a file is missing", repair="download it again"
)
ZEROS: Final = _refused("zeros", "nothing but zeros, as a copy that broke off leaves it", repair="copy it again")
JPEG_XL: Final = _refused("JPEG XL", "a JPEG XL picture")
JPEG_2000: Final = _refused("JPEG 2000", "a JPEG 2000 picture")
HEIF: Final = _refused("HEIC or AVIF", "a HEIC or AVIF picture")
PSD: Final = _refused("Photoshop document", "a Photoshop document")
NETPBM: Final = _refused("PGM, PPM or PBM", "a PGM, PPM or PBM picture")
EXR: Final = _refused("OpenEXR", "an OpenEXR picture")
PDF: Final = _refused("PDF", "a PDF")
DICOM: Final = _refused("DICOM", "a DICOM file")

# The graph knows kinds by their place here.
KINDS: Final = (
    UNKNOWN, EMPTY, PNG, PNG_DEEP, PNG_DEEP_COLOR, PNG_ANIMATED, JPEG, JPEG_LOSSLESS, JPEG_DEEP, JPEG_RARE,
    BMP, BMP_INDEXED, BMP_RARE, WEBP, WEBP_ANIMATED, TIFF, GIF,
    HTML, XML, LFS, ZEROS, JPEG_XL, JPEG_2000, HEIF, PSD, NETPBM, EXR, PDF, DICOM,
)  # fmt: skip

# First bytes, `?` for any: what they tell, the first that fits. Kinds of one format are told apart by its header.
HEAD_BYTES: Final = 132
SIGNATURES: Final = (
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"\xff\xd8\xff", JPEG),
    (b"BM", BMP),
    (b"RIFF????WEBP", WEBP),
    (b"II*\0", TIFF),
    (b"MM\0*", TIFF),
    (b"II+\0", TIFF),
    (b"MM\0+", TIFF),
    (b"GIF87a", GIF),
    (b"GIF89a", GIF),
    (b"\0\0\0\x0cjP  ", JPEG_2000),
    (b"\xff\x4f\xff\x51", JPEG_2000),
    (b"????ftyp", HEIF),
    (b"8BPS", PSD),
    (b"v/1\x01", EXR),
    (b"%PDF", PDF),
    (b"version https://git-lfs", LFS),
    (b"<!DOCTYPE", HTML),
    (b"<!doctype", HTML),
    (b"<html", HTML),
    (b"<HTML", HTML),
    (b"\n<", HTML),
    (b"\r\n<", HTML),
    (b"\xef\xbb\xbf<", HTML),
    (b"<?xml", XML),
    (b"<svg", XML),
    (b"\xff\x0a", JPEG_XL),
    (b"\0\0\0\x0cJXL ", JPEG_XL),
    *((b"P%d" % digit + space, NETPBM) for digit in range(1, 8) for space in (b"\n", b" ")),
    (b"?" * 128 + b"DICM", DICOM),
    (b"\0" * HEAD_BYTES, ZEROS),
)

# JPEG's processes, by the marker of the frame header (ITU-T T.81, table B.1).
JPEG_READ: Final = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
JPEG_LOSSLESS_MARKER: Final = 0xC3
# The last is JPEG-LS's (ITU-T T.87).
JPEG_FRAMES: Final = (*(m for m in range(0xC0, 0xD0) if m not in (0xC4, 0xC8, 0xCC)), 0xF7)
# Where a walk from segment to segment ends: the start of a scan, and the end of the picture.
JPEG_SCAN_OR_END: Final = (0xDA, 0xD9)
# The segment that EXIF lies in, and how its content begins.
JPEG_APP1: Final = 0xE1
EXIF: Final = b"Exif\0\0"
# Where the first chunk begins: behind PNG's header, and behind WebP's name.
FIRST_PNG_CHUNK: Final = 33
FIRST_WEBP_CHUNK: Final = 12
# In the flags of WebP's extended header.
WEBP_MOVES: Final = 0x02

# Steps through the segments or chunks of a file before its pixels, which neither JPEG nor PNG limits: a hostile file
# must not keep a server walking. And entries of its EXIF directory that are looked at: tags are in ascending order, and
# at most twenty come before the orientation.
MOST_SEGMENTS: Final = 1024
MOST_EXIF_ENTRIES: Final = 64
ORIENTATION_TAG: Final = 0x0112
# Orientations from 5 to 8 lie: width and height change places.
FIRST_LYING: Final = 5

DAMAGED: Final = Words("damaged or truncated: it cannot be decoded", "a whole image file", "replace it")


def too_large(width: int | str, height: int | str, max_pixels: int) -> Words:
    """Words for a picture whose header says more pixels than are accepted."""
    return Words(
        f"{width}x{height} pixels",
        f"at most {max_pixels:,} pixels (image.max_pixels)",
        "scale it down or raise the limit",
    )


def unlisted(index: int, colors: int) -> Words:
    """Words for a picture with an index that its palette does not have."""
    what = f"a palette of {colors} colours, and pixels of the index {index}"
    return Words(what, "indices that the palette has", "save it with its whole palette, or as grey")


def sliver(max_pixels: int) -> Words:
    """Words for a row of pixels that `image.fit = "tile"` would pad to gigabytes."""
    what = f"too long and thin: padded to whole tiles it has more than {max_pixels} pixels"
    return Words(what, "at most so many (image.max_pixels)", "cut it, or raise the limit")


# Cameras of 10, 12 and 14 bits write 16 bits of which the upper are empty.
LEAST_OF_16_BITS: Final = 2**14
FULL_16_BITS: Final = (0.0, 65535.0)
_SET_RANGE: Final = "set image.value_range = [black, white], such as "
UNUSED_16_BITS: Final = Words(
    f"a picture of 16 bits without a value above {LEAST_OF_16_BITS - 1}, as cameras of fewer bits write it",
    "to know which value is white",
    f"{_SET_RANGE}[0, 4095] for 12 bits",
)
OUTSIDE_RANGE: Final = Words(
    "values outside image.value_range", "every value within it", "set it to the black and white of the camera"
)
DEEP_COLOR_RANGE: Final = Words(
    "a colour picture of 16 bits with image.value_range", "it unset, or [0, 65535]", "save it as grey or with 8 bits"
)


def unknown_range(name: str, lowest: float, highest: float) -> Words:
    """Words for a picture whose numbers have a range that the file does not tell."""
    what = f"{name}, with values from {lowest:g} to {highest:g}"
    whites = (1, 255, 4095, 65535)
    example = next((f"[0, {white}]" for white in whites if lowest >= 0 and highest <= white), "[-1000, 3000]")
    return Words(what, "to know which value is white", f"{_SET_RANGE}{example}")
