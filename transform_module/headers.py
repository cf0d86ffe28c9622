"""What an encoded image says about itself, read from its first bytes inside the graph, before anything is decoded.

A PNG of half a megabyte can declare 13000x13000 pixels and cost 4.5 GB to decode. The format is told by magic bytes,
never by a name; every field is read for the whole batch at once. Kinds, words and limits are those of
flexunet/core/readable.py, the rules those of flexunet/core/headers.py, which reads one file without TensorFlow.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import tensorflow as tf

from flexunet.core import readable
from flexunet.core.readable import Kind

_FILLER: Final = 0xFF
# A JPEG's marker and length, and the six bytes of EXIF's name or of a frame header that are looked at.
_SEGMENT_BYTES: Final = 10
# Length and name of a chunk of PNG or WebP.
_CHUNK_BYTES: Final = 8


class Headers(NamedTuple):
    """Headers of the images of a batch.

    Attributes:
      kind: its place in `readable.KINDS`, int32 `[N]`.
      height: of the upright picture, int64 `[N]`.
      width: likewise.
      orientation: of EXIF, 1 to 8, int32 `[N]`.
      problem: why it is refused, string `[N]`, "" if it is not; the other fields of a refused image are any numbers.
    """

    kind: tf.Tensor
    height: tf.Tensor
    width: tf.Tensor
    orientation: tf.Tensor
    problem: tf.Tensor


class _Told(NamedTuple):
    """What the header of one format says, all `[N]`: a size of 0 is none; where EXIF begins and ends, 0 if nowhere."""

    kind: tf.Tensor
    height: tf.Tensor
    width: tf.Tensor
    exif_start: tf.Tensor
    exif_end: tf.Tensor


def read_headers(encoded: tf.Tensor, max_pixels: int) -> Headers:
    """Encoded images, string `[N]` -> their headers."""
    head = _bytes(tf.strings.substr(encoded, 0, readable.HEAD_BYTES), readable.HEAD_BYTES)
    kind = tf.where(tf.strings.length(encoded) == 0, place(readable.EMPTY), _format(head))
    nothing = tf.zeros_like(kind, tf.int64)
    told = _Told(kind, nothing, nothing, nothing, nothing)
    told = _where_any(kind == place(readable.JPEG), lambda jpeg: _jpeg(encoded, jpeg), told)
    told = _where_any(kind == place(readable.PNG), lambda png: _png(encoded, head, png), told)
    told = _where_any(kind == place(readable.BMP), lambda _: _bmp(head), told)
    told = _where_any(kind == place(readable.WEBP), lambda webp: _webp(encoded, head, webp), told)
    # Divided, since a header may say numbers whose product is more than int64 holds.
    too_large = told.height > max_pixels // tf.maximum(told.width, 1)
    problem = tf.where(too_large, _too_large(told, max_pixels), "")
    problem = tf.where((told.height <= 0) | (told.width <= 0), str(readable.DAMAGED), problem)
    words = tf.constant(["" if kind.is_read else str(kind.words) for kind in readable.KINDS])
    refused = tf.gather(words, told.kind)
    problem = tf.where(refused == "", problem, refused)
    orientation = _orientations(encoded, told.exif_start, told.exif_end)
    lying = orientation >= readable.FIRST_LYING
    height, width = tf.where(lying, told.width, told.height), tf.where(lying, told.height, told.width)
    return Headers(told.kind, height, width, orientation, problem)


def _where_any(here: tf.Tensor, parse: Callable[[tf.Tensor], _Told], told: _Told) -> _Told:
    """`told` with what `parse` says of the images that are `here`, bool `[N]`. Most batches are of one format, and to
    look for the others would take half a millisecond.
    """

    def parsed() -> _Told:
        return _Told(*(tf.where(here, new, old) for new, old in zip(parse(here), told, strict=True)))

    return _Told(*tf.cond(tf.reduce_any(here), parsed, lambda: told))


def place(kind: Kind) -> int:
    """The number of a kind in the graph."""
    return readable.KINDS.index(kind)


def _too_large(told: _Told, max_pixels: int) -> tf.Tensor:
    width, height = (tf.strings.as_string(size) for size in (told.width, told.height))
    _, between, after = str(readable.too_large("|", "|", max_pixels)).split("|")
    return tf.strings.join([width, between, height, after])


def _format(head: tf.Tensor) -> tf.Tensor:
    """The kind by the first bytes, int32 `[N]`."""
    magic = [list(magic.ljust(readable.HEAD_BYTES, b"?")) for magic, _ in readable.SIGNATURES]
    expected = tf.constant(magic, tf.int64)
    fits = tf.reduce_all((head[:, tf.newaxis] == expected) | (expected == ord("?")), axis=2)
    kinds = tf.constant([place(kind) for _, kind in readable.SIGNATURES])
    first = tf.gather(kinds, tf.argmax(fits, axis=1))
    return tf.where(tf.reduce_any(fits, axis=1), first, place(readable.UNKNOWN))


def _length(encoded: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.strings.length(encoded), tf.int64)


def _bytes(strings: tf.Tensor, count: int) -> tf.Tensor:
    """string `[N]` -> int64 `[N, count]`; what is shorter is filled up with zeros."""
    return tf.cast(tf.io.decode_raw(strings, tf.uint8, fixed_length=count), tf.int64)


def _bytes_at(encoded: tf.Tensor, position: tf.Tensor, count: int) -> tf.Tensor:
    """The bytes from `position`, int64 `[N]`, on: int64 `[N, count]`; zeros beyond the end."""
    start = tf.minimum(position, _length(encoded))
    return _bytes(tf.strings.substr(encoded, start, tf.fill(tf.shape(start), tf.constant(count, tf.int64))), count)


def _starts(head: tf.Tensor, magic: bytes, offset: int = 0) -> tf.Tensor:
    return tf.reduce_all(head[:, offset : offset + len(magic)] == list(magic), axis=1)


def _big(head: tf.Tensor, offset: int, count: int) -> tf.Tensor:
    """The unsigned number in `count` bytes, most significant first, int64 `[N]`."""
    weights = tf.constant([256**power for power in reversed(range(count))], tf.int64)
    return tf.reduce_sum(head[..., offset : offset + count] * weights, axis=-1)


def _little(head: tf.Tensor, offset: int, count: int) -> tf.Tensor:
    weights = tf.constant([256**power for power in range(count)], tf.int64)
    return tf.reduce_sum(head[..., offset : offset + count] * weights, axis=-1)


def _is_one_of(values: tf.Tensor, choices: tuple[int, ...]) -> tf.Tensor:
    return tf.reduce_any(values[:, tf.newaxis] == list(choices), axis=1)


def _jpeg(encoded: tf.Tensor, jpeg: tf.Tensor) -> _Told:
    """Walks from segment to segment to the frame header; no size where there is none."""
    length = _length(encoded)

    def walk(
        step: tf.Tensor, active: tf.Tensor, position: tf.Tensor, frame: tf.Tensor, *exif: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        found = _bytes_at(encoded, position, _SEGMENT_BYTES)
        marker, size = found[:, 1], _big(found, 2, 2)
        active &= (found[:, 0] == 0xFF) & (position < length)
        active &= tf.logical_not(_is_one_of(marker, readable.JPEG_SCAN_OR_END))
        end = position + 2 + size
        first_exif = active & (marker == readable.JPEG_APP1) & _starts(found, readable.EXIF, 4) & (exif[0] == 0)
        start = tf.where(first_exif, position + _SEGMENT_BYTES, exif[0])
        is_frame = active & _is_one_of(marker, readable.JPEG_FRAMES)
        whole = is_frame & (position + _SEGMENT_BYTES <= length)
        frame = tf.where(whole[:, tf.newaxis], found, frame)
        filler = marker == _FILLER
        active &= tf.logical_not(is_frame) & (filler | (size >= 2))
        position = tf.where(active, tf.where(filler, position + 1, end), position)
        return step + 1, active, position, frame, start, tf.where(first_exif, end, exif[1])

    zero = tf.zeros_like(length)
    start = (0, jpeg, zero + 2, tf.zeros([tf.shape(length)[0], _SEGMENT_BYTES], tf.int64), zero, zero)
    *_, frame, exif_start, exif_end = tf.while_loop(_walking, walk, start, parallel_iterations=1)
    known = tf.cast(_is_one_of(frame[:, 9], (1, 3, 4)), tf.int64)
    return _Told(_jpeg_kind(frame), known * _big(frame, 5, 2), known * _big(frame, 7, 2), exif_start, exif_end)


def _walking(step: tf.Tensor, active: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
    return (step < readable.MOST_SEGMENTS) & tf.reduce_any(active)


def _jpeg_kind(frame: tf.Tensor) -> tf.Tensor:
    marker = frame[:, 1]
    read, lossless = _is_one_of(marker, readable.JPEG_READ), marker == readable.JPEG_LOSSLESS_MARKER
    kind = tf.where(read, place(readable.JPEG), place(readable.JPEG_LOSSLESS))
    kind = tf.where(frame[:, 4] == 8, kind, place(readable.JPEG_DEEP))
    kind = tf.where(read | lossless, kind, place(readable.JPEG_RARE))
    return tf.where(marker == 0, place(readable.JPEG), kind)


def _png(encoded: tf.Tensor, head: tf.Tensor, png: tf.Tensor) -> _Told:
    """Walks from chunk to chunk to the pixels; no size where there are none. Most files have nothing in between."""
    length = _length(encoded)

    def walk(step: tf.Tensor, active: tf.Tensor, position: tf.Tensor, *state: tf.Tensor) -> tuple[tf.Tensor, ...]:
        pixels, moves, exif_start, exif_end = state
        found = _bytes_at(encoded, position, _CHUNK_BYTES)
        size = _big(found, 0, 4)
        active &= (position + _CHUNK_BYTES <= length) & (size < 2**31)
        end = position + 12 + size
        pixels |= active & _starts(found, b"IDAT", 4)
        moves |= active & _starts(found, b"acTL", 4)
        exif = active & _starts(found, b"eXIf", 4) & (exif_start == 0)
        exif_start = tf.where(exif, position + _CHUNK_BYTES, exif_start)
        exif_end = tf.where(exif, end - 4, exif_end)
        active &= tf.logical_not(pixels | moves)
        return step + 1, active, tf.where(active, end, position), pixels, moves, exif_start, exif_end

    zero = tf.zeros_like(length)
    whole = png & _starts(head, b"\0\0\0\rIHDR", 8) & (length >= readable.FIRST_PNG_CHUNK)
    pixels = (
        whole & _starts(head, b"IDAT", 37) & (head[:, 33] < 128) & (length >= readable.FIRST_PNG_CHUNK + _CHUNK_BYTES)
    )
    start = (0, whole & tf.logical_not(pixels), zero + readable.FIRST_PNG_CHUNK, pixels, tf.zeros_like(png), zero, zero)
    *_, pixels, moves, exif_start, exif_end = tf.while_loop(_walking, walk, start, parallel_iterations=1)
    deep = tf.where(head[:, 25] == 0, place(readable.PNG_DEEP), place(readable.PNG_DEEP_COLOR))
    kind = tf.where(whole & (head[:, 24] == 16), deep, place(readable.PNG))
    kind = tf.where(moves, place(readable.PNG_ANIMATED), kind)
    there = tf.cast(pixels, tf.int64)
    return _Told(kind, there * _big(head, 20, 4), there * _big(head, 16, 4), exif_start, exif_end)


def _bmp(head: tf.Tensor) -> _Told:
    """Rows from the top are told by a negative height. The 12-byte header of OS/2 has other fields."""
    header, old = _little(head, 14, 4), _little(head, 14, 4) == 12
    width, height = _signed(_little(head, 18, 4)), tf.abs(_signed(_little(head, 22, 4)))
    there = tf.cast(header >= 40, tf.int64)
    width = tf.where(old, _little(head, 18, 2), there * tf.maximum(width, 0))
    height = tf.where(old, _little(head, 20, 2), there * height)
    bits, plain = _little(head, 28, 2), (header >= 40) & (_little(head, 30, 4) == 0)
    kind = tf.where(plain & _is_one_of(bits, (24, 32)), place(readable.BMP), place(readable.BMP_RARE))
    kind = tf.where(plain & (bits == 8), place(readable.BMP_INDEXED), kind)
    nowhere = tf.zeros_like(width)
    return _Told(kind, height, width, nowhere, nowhere)


def _signed(number: tf.Tensor) -> tf.Tensor:
    return tf.where(number >= 2**31, number - 2**32, number)


def _webp(encoded: tf.Tensor, head: tf.Tensor, webp: tf.Tensor) -> _Told:
    lossy = _starts(head, b"VP8 ", 12) & _starts(head, b"\x9d\x01\x2a", 23)
    lossless = _starts(head, b"VP8L", 12) & (head[:, 20] == 0x2F)
    extended = _starts(head, b"VP8X", 12)
    packed = _little(head, 21, 4)
    height, width = _low_bits(_little(head, 28, 2)), _low_bits(_little(head, 26, 2))
    height = tf.where(lossless, _low_bits(packed // 2**14) + 1, height)
    width = tf.where(lossless, _low_bits(packed) + 1, width)
    height = tf.where(extended, _little(head, 27, 3) + 1, height)
    width = tf.where(extended, _little(head, 24, 3) + 1, width)
    there = tf.cast(lossy | lossless | extended, tf.int64)
    moves = extended & (tf.bitwise.bitwise_and(head[:, 20], readable.WEBP_MOVES) > 0)
    kind = tf.where(moves, place(readable.WEBP_ANIMATED), place(readable.WEBP))
    exif = _webp_exif(encoded, webp & extended & tf.logical_not(moves))
    return _Told(kind, there * height, there * width, *exif)


def _webp_exif(encoded: tf.Tensor, extended: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where EXIF begins and ends; it mostly comes behind the pixels."""
    length = _length(encoded)

    def walk(step: tf.Tensor, active: tf.Tensor, position: tf.Tensor, *exif: tf.Tensor) -> tuple[tf.Tensor, ...]:
        found = _bytes_at(encoded, position, _CHUNK_BYTES)
        size = _little(found, 4, 4)
        active &= position + _CHUNK_BYTES <= length
        end = position + _CHUNK_BYTES + size + tf.math.floormod(size, 2)
        here = active & _starts(found, b"EXIF")
        exif = (tf.where(here, position + _CHUNK_BYTES, exif[0]), tf.where(here, end, exif[1]))
        active &= tf.logical_not(here)
        return step + 1, active, tf.where(active, end, position), *exif

    zero = tf.zeros_like(length)
    start = (0, extended, zero + readable.FIRST_WEBP_CHUNK, zero, zero)
    *_, exif_start, exif_end = tf.while_loop(_walking, walk, start, parallel_iterations=1)
    return exif_start, exif_end


def _low_bits(numbers: tf.Tensor) -> tf.Tensor:
    """The low 14 bits, WebP's width of a size."""
    return tf.math.floormod(numbers, 2**14)


def _orientations(encoded: tf.Tensor, start: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    """int32 `[N]`, 1 where there is no EXIF or it is not as the standard has it; most batches have none."""
    upright = tf.ones_like(start, tf.int32)
    end = tf.minimum(end, _length(encoded))
    return tf.cond(tf.reduce_any(start > 0), lambda: _read_orientations(encoded, start, end), lambda: upright)


def _read_orientations(encoded: tf.Tensor, start: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    """Orientations from IFD0 of the TIFF blocks from `start` to `end`: nothing outside the block is read."""
    prefixed = _starts(_bytes_at(encoded, start, len(readable.EXIF)), readable.EXIF)
    start = tf.where(prefixed, start + len(readable.EXIF), start)
    head = _bytes_at(encoded, start, 8)
    little = _starts(head, b"II*\0")
    good = (start > 0) & (start + 8 <= end) & (little | _starts(head, b"MM\0*"))
    directory = start + _number(head, 4, 4, little)
    good &= directory + 2 <= end
    directory = tf.where(good, directory, 0)
    count = _number(_bytes_at(encoded, directory, 2), 0, 2, little)
    entries = _bytes_at(encoded, directory + 2, 12 * readable.MOST_EXIF_ENTRIES)
    entries = tf.reshape(entries, [-1, readable.MOST_EXIF_ENTRIES, 12])
    order, places = little[:, tf.newaxis], tf.range(readable.MOST_EXIF_ENTRIES, dtype=tf.int64)
    inside = (places < count[:, tf.newaxis]) & (
        (directory + 2)[:, tf.newaxis] + 12 * (places + 1) <= end[:, tf.newaxis]
    )
    ours = inside & (_number(entries, 0, 2, order) == readable.ORIENTATION_TAG)
    kind, number = _number(entries, 2, 2, order), _number(entries, 4, 4, order)
    value = tf.where(kind == 3, _number(entries, 8, 2, order), tf.where(kind == 4, _number(entries, 8, 4, order), 0))
    value = tf.where((number == 1) & (value >= 1) & (value <= 8), value, 1)
    first = tf.gather(value, tf.argmax(ours, axis=1), batch_dims=1)
    return tf.cast(tf.where(good & tf.reduce_any(ours, axis=1), first, 1), tf.int32)


def _number(head: tf.Tensor, offset: int, count: int, little: tf.Tensor) -> tf.Tensor:
    return tf.where(little, _little(head, offset, count), _big(head, offset, count))
