"""What an encoded image says about itself, read from its first bytes inside the graph, before anything is decoded.

A PNG of half a megabyte can declare 13000x13000 pixels and cost 4.5 GB to decode. The format is told by magic bytes,
never by a name; every field is read for the whole batch at once.

Sources: PNG (ISO/IEC 15948, 11.2.2), JPEG (ITU-T T.81, B.1.1 and B.2.2), BMP (BITMAPINFOHEADER), WebP (RFC 9649).
"""

from typing import Final, NamedTuple

import tensorflow as tf

# The last field that is read ends at byte 29, in WebP's VP8X.
_HEAD: Final = 32
# A JPEG's frame header stands behind its tables and metadata; a file with more segments than this is refused.
_MAX_SEGMENTS: Final = 512
# Marker, length, precision, height, width.
_FRAME_BYTES: Final = 9
# SOF0 to SOF15 without DHT, JPG and DAC.
_FRAME_MARKERS: Final = tuple(m for m in range(0xC0, 0xD0) if m not in (0xC4, 0xC8, 0xCC))
_START_OF_SCAN: Final = 0xDA
_END_OF_IMAGE: Final = 0xD9
_ANIMATED: Final = 0x02


class Headers(NamedTuple):
    """Sizes of a batch of images, int64 `[N]`, and why each is refused, string `[N]`, "" if it is not."""

    height: tf.Tensor
    width: tf.Tensor
    problem: tf.Tensor


def read_headers(encoded: tf.Tensor, max_pixels: int) -> Headers:
    """Encoded images, string `[N]` -> their headers; what is refused has a reason and any size."""
    head = _bytes(tf.strings.substr(encoded, 0, _HEAD), _HEAD)
    png, jpeg = _starts(head, b"\x89PNG\r\n\x1a\n"), _starts(head, b"\xff\xd8\xff")
    bmp, webp = _starts(head, b"BM"), _starts(head, b"RIFF") & _starts(head, b"WEBP", 8)
    height, width = _jpeg_size(encoded, jpeg)
    for found, (other_height, other_width) in (
        (png, _png_size(head)),
        (bmp, _bmp_size(head)),
        (webp, _webp_size(head)),
    ):
        height, width = tf.where(found, other_height, height), tf.where(found, other_width, width)
    animated = webp & _starts(head, b"VP8X", 12) & (tf.bitwise.bitwise_and(head[:, 20], _ANIMATED) > 0)
    # From the last resort to the first: a later line wins.
    problem = tf.where(height * width > max_pixels, _too_large(height, width, max_pixels), "")
    problem = tf.where((height <= 0) | (width <= 0), "damaged or truncated: its header says no size", problem)
    problem = tf.where(animated, "an animated WebP, expected a single image", problem)
    known = png | jpeg | bmp | webp
    problem = tf.where(known, problem, "not a PNG, JPEG, BMP or WebP file, by its first bytes")
    problem = tf.where(tf.strings.length(encoded) == 0, "no bytes", problem)
    return Headers(height, width, problem)


def _too_large(height: tf.Tensor, width: tf.Tensor, max_pixels: int) -> tf.Tensor:
    size = tf.strings.join([tf.strings.as_string(width), "x", tf.strings.as_string(height)])
    return tf.strings.join([size, f" pixels, at most {max_pixels} are accepted (image.max_pixels)"])


def _bytes(strings: tf.Tensor, count: int) -> tf.Tensor:
    """string `[N]` -> int64 `[N, count]`; what is shorter is filled up with zeros."""
    return tf.cast(tf.io.decode_raw(strings, tf.uint8, fixed_length=count), tf.int64)


def _starts(head: tf.Tensor, magic: bytes, offset: int = 0) -> tf.Tensor:
    return tf.reduce_all(head[:, offset : offset + len(magic)] == list(magic), axis=1)


def _big(head: tf.Tensor, offset: int, count: int) -> tf.Tensor:
    """The unsigned number in `count` bytes, most significant first, int64 `[N]`."""
    weights = tf.constant([256**power for power in reversed(range(count))], tf.int64)
    return tf.reduce_sum(head[:, offset : offset + count] * weights, axis=1)


def _little(head: tf.Tensor, offset: int, count: int) -> tf.Tensor:
    weights = tf.constant([256**power for power in range(count)], tf.int64)
    return tf.reduce_sum(head[:, offset : offset + count] * weights, axis=1)


def _png_size(head: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    there = tf.cast(_starts(head, b"IHDR", 12), tf.int64)
    return there * _big(head, 20, 4), there * _big(head, 16, 4)


def _bmp_size(head: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    # Rows from the top are told by a negative height. The 12-byte header of OS/2 has other fields here.
    there = tf.cast(_little(head, 14, 4) >= 40, tf.int64)
    height = _little(head, 22, 4)
    height = tf.where(height >= 2**31, 2**32 - height, height)
    return there * height, there * _little(head, 18, 4)


def _webp_size(head: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    lossy = _starts(head, b"VP8 ", 12) & _starts(head, b"\x9d\x01\x2a", 23)
    lossless = _starts(head, b"VP8L", 12) & (head[:, 20] == 0x2F)
    extended = _starts(head, b"VP8X", 12)
    packed = _little(head, 21, 4)
    height, width = _low_bits(_little(head, 28, 2)), _low_bits(_little(head, 26, 2))
    height = tf.where(lossless, _low_bits(packed // 2**14) + 1, height)
    width = tf.where(lossless, _low_bits(packed) + 1, width)
    height, width = (
        tf.where(extended, _little(head, 27, 3) + 1, height),
        tf.where(extended, _little(head, 24, 3) + 1, width),
    )
    there = tf.cast(lossy | lossless | extended, tf.int64)
    return there * height, there * width


def _low_bits(numbers: tf.Tensor) -> tf.Tensor:
    """The low 14 bits, WebP's width of a size."""
    return tf.math.floormod(numbers, 2**14)


def _jpeg_size(encoded: tf.Tensor, jpeg: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Walks from segment to segment to the frame header; 0 where there is none."""
    length = tf.strings.length(encoded)

    def segment(position: tf.Tensor) -> tf.Tensor:
        count = tf.fill(tf.shape(position), _FRAME_BYTES)
        return _bytes(tf.strings.substr(encoded, tf.minimum(position, length), count), _FRAME_BYTES)

    def walking(step: tf.Tensor, *state: tf.Tensor) -> tf.Tensor:
        return (step < _MAX_SEGMENTS) & tf.reduce_any(state[0])

    def walk(
        step: tf.Tensor, active: tf.Tensor, position: tf.Tensor, height: tf.Tensor, width: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        found = segment(position)
        marker = found[:, 1]
        frame = active & (found[:, 0] == 0xFF) & _is_one_of(marker, _FRAME_MARKERS)
        height = tf.where(frame, _big(found, 5, 2), height)
        width = tf.where(frame, _big(found, 7, 2), width)
        filler = marker == 0xFF
        size = _big(found, 2, 2)
        over = frame | _is_one_of(marker, (_START_OF_SCAN, _END_OF_IMAGE)) | (position >= length)
        active = active & (found[:, 0] == 0xFF) & (filler | (size >= 2)) & tf.logical_not(over)
        position = position + tf.where(active, tf.where(filler, 1, 2 + tf.cast(size, tf.int32)), 0)
        return step + 1, active, position, height, width

    zero = tf.zeros_like(length, tf.int64)
    start = (tf.constant(0), jpeg, tf.fill(tf.shape(length), 2), zero, zero)
    *_, height, width = tf.while_loop(walking, walk, start, parallel_iterations=1)
    return height, width


def _is_one_of(values: tf.Tensor, choices: tuple[int, ...]) -> tf.Tensor:
    return tf.reduce_any(values[:, tf.newaxis] == list(choices), axis=1)
