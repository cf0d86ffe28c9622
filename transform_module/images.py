"""Decoding an image and bringing it to the model's size; scores find their way back in `transform_module/unfit.py`.

`preprocessing_fn` and every serving signature call these functions, so that there is no training/serving skew.
An image becomes `[tiles, height, width, ...]`: one tile for `fit = stretch | pad`, several for `fit = tile`.
"""

import base64
from collections.abc import Callable
from typing import Final, NamedTuple

import tensorflow as tf

from flexunet.core import readable
from flexunet.core.config.data import ImageConfig
from flexunet.core.features import IGNORE_ID
from transform_module.geometry import inner_size, tile_grid, tile_strides
from transform_module.graphs import as_written
from transform_module.headers import Headers, place, read_headers

# Decoded in the place of an image that is refused; nobody sees it.
_PLACEHOLDER: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mNgYGAAAAAEAAHI6uv5AAAAAElFTkSuQmCC"
)
# Images in decoding at once: of those that are accepted, each may take 150 MB.
_DECODED_AT_ONCE: Final = 2
# By the kind: which branch of `decode_image` reads it.
_OWN_DECODERS: Final = {
    readable.WEBP: 1,
    readable.BMP: 2,
    readable.BMP_INDEXED: 2,
    readable.PNG_DEEP: 3,
    readable.PNG_DEEP_COLOR: 3,
}
_DECODERS: Final = [_OWN_DECODERS.get(kind, 0) for kind in readable.KINDS]


class Decoded(NamedTuple):
    """RGB uint8 `[h, w, 3]`, and why its values are refused, string scalar: "" if they are not."""

    image: tf.Tensor
    problem: tf.Tensor


def decode_image(encoded: tf.Tensor, kind: tf.Tensor, orientation: tf.Tensor, settings: ImageConfig) -> Decoded:
    """An image whose header was read without a problem, scalars -> upright RGB uint8 `[h, w, 3]`; alpha is dropped.

    Args:
      encoded: string.
      kind: its place in the table of what can be read, int32.
      orientation: of EXIF, 1 to 8, int32.
      settings: `value_range` brings 16 bits to grey levels.

    Raises (when run):
      tf.errors.InvalidArgumentError: damaged or truncated.
    """
    fine = tf.constant("")
    pixels, problem = tf.switch_case(
        tf.gather(_DECODERS, kind),
        [
            lambda: (_decode_plain(encoded), fine),
            # With alpha or without, which is not asked of this op but told by it.
            lambda: (tf.io.decode_image(encoded, channels=0, expand_animations=False)[..., :3], fine),
            lambda: (_decode_bmp(encoded), fine),
            lambda: _decode_deep_png(encoded, settings),
        ],
    )
    return Decoded(_upright(tf.ensure_shape(pixels, [None, None, 3]), orientation), problem)


def _decode_plain(encoded: tf.Tensor) -> tf.Tensor:
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return tf.ensure_shape(image, [None, None, 3])


def decode_one(encoded: tf.Tensor, settings: ImageConfig) -> Decoded:
    """An image, string scalar, whatever it is: `problem` says why it is refused; then the pixels are a placeholder's.

    Raises (when run):
      tf.errors.InvalidArgumentError: damaged or truncated.
    """
    encoded = tf.convert_to_tensor(encoded)
    headers = Headers(*(values[0] for values in read_rows(encoded[tf.newaxis], settings)))
    good = headers.problem == ""
    kind = tf.where(good, headers.kind, place(readable.PNG))
    orientation = tf.where(good, headers.orientation, 1)
    image, problem = decode_image(tf.where(good, encoded, _PLACEHOLDER), kind, orientation, settings)
    return Decoded(image, tf.where(good, problem, headers.problem))


def _decode_bmp(encoded: tf.Tensor) -> tf.Tensor:
    """Uncompressed, of 8 bits with a palette, 24 or 32, as flexunet/core/pictures.py has it.

    TensorFlow's own decoder takes indices for grey levels and refuses a byte of padding at the end.
    """
    start, width, height = (_number(encoded, position) for position in (10, 18, 22))
    channels, rows = tf.bitwise.bitwise_and(_number(encoded, 28), 2**16 - 1) // 8, tf.abs(height)
    stored = (channels * width + 3) // 4 * 4
    length = tf.strings.length(encoded)
    start = tf.where((start < 0) | (start > length), length, start)
    pixels = tf.io.decode_raw(tf.strings.substr(encoded, start, stored * rows), tf.uint8)
    pixels = tf.reshape(tf.reshape(pixels, [rows, stored])[:, : channels * width], [rows, width, channels])
    pixels = tf.cond(height < 0, lambda: pixels, lambda: pixels[::-1])
    return tf.cond(channels == 1, lambda: _colors(encoded, pixels[..., 0]), lambda: pixels[..., 2::-1])


def _colors(encoded: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    """The palette stands behind the header, four bytes a colour, blue first; an index outside it is an error."""
    header, colors = _number(encoded, 14), _number(encoded, 46)
    start = tf.where((header < 0) | (header > 2**20), tf.strings.length(encoded), 14 + header)
    used = tf.where((colors == 0) | (colors > 256) | (colors < 0), 256, colors)
    start = tf.minimum(start, tf.strings.length(encoded))
    used = tf.minimum(used, (tf.strings.length(encoded) - start) // 4)
    palette = tf.reshape(tf.io.decode_raw(tf.strings.substr(encoded, start, 4 * used), tf.uint8), [-1, 4])
    return tf.gather(palette[:, 2::-1], tf.cast(indices, tf.int32))


def _number(encoded: tf.Tensor, position: int) -> tf.Tensor:
    """The four bytes at `position` as a little-endian int32."""
    return tf.io.decode_raw(tf.strings.substr(encoded, position, 4), tf.int32)[0]


def _decode_deep_png(encoded: tf.Tensor, settings: ImageConfig) -> tuple[tf.Tensor, tf.Tensor]:
    """Grey levels of 16 bits, as flexunet/core/depth.py has them."""
    values = tf.io.decode_png(encoded, channels=3, dtype=tf.uint16)
    lowest, highest = (tf.cast(find(values), tf.float64) for find in (tf.reduce_min, tf.reduce_max))
    black, white = settings.value_range or readable.FULL_16_BITS
    problem = tf.where((lowest < black) | (highest > white), str(readable.OUTSIDE_RANGE), "")
    if settings.value_range is None:
        problem = tf.where(highest < readable.LEAST_OF_16_BITS, str(readable.UNUSED_16_BITS), problem)
    levels = tf.floor((tf.cast(values, tf.float64) - black) * 256 / (white - black + 1))
    return tf.saturate_cast(levels, tf.uint8), problem


def _upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns an image as EXIF's orientation says the camera was held."""
    turns = [
        lambda: image,
        lambda: image[:, ::-1],
        lambda: image[::-1, ::-1],
        lambda: image[::-1],
        lambda: tf.transpose(image, [1, 0, 2]),
        lambda: tf.transpose(image, [1, 0, 2])[:, ::-1],
        lambda: tf.transpose(image, [1, 0, 2])[::-1, ::-1],
        lambda: tf.transpose(image, [1, 0, 2])[::-1],
    ]
    return tf.switch_case(orientation - 1, turns)


def read_rows(encoded: tf.Tensor, settings: ImageConfig) -> Headers:
    """The headers of encoded images, string `[N]`, with all that can be refused before anything is decoded."""
    headers = read_headers(encoded, settings.max_pixels)
    problem = headers.problem
    if settings.value_range not in (None, readable.FULL_16_BITS):
        deep_color = (problem == "") & (headers.kind == place(readable.PNG_DEEP_COLOR))
        problem = tf.where(deep_color, str(readable.DEEP_COLOR_RANGE), problem)
    if settings.fit == "tile":
        problem = _refuse_slivers(headers._replace(problem=problem), settings)
    return headers._replace(problem=problem)


def decode_rows(encoded: tf.Tensor, settings: ImageConfig) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Decodes and fits each image by itself: one that is broken does no harm to the others of its batch.

    Format and size are read from the header before anything is decoded.

    Args:
      encoded: string `[N]`; N is 1 for `fit = tile`, where each image may give another number of tiles.
      settings: sizes, and `max_pixels`.

    Returns:
      Tiles uint8 `[N, tiles, height, width, 3]`, the upright images' own sizes int32 `[N, 2]`, and why an image was
      refused, string `[N]`: "" if it was not; tiles and size of a refused image are a placeholder's.
    """
    headers = read_rows(encoded, settings)
    good = headers.problem == ""
    count = tf.shape(encoded, tf.int64)[0]
    rows = _Rows(
        tf.range(count),
        tf.where(good, encoded, _PLACEHOLDER),
        tf.where(good, headers.kind, place(readable.PNG)),
        tf.where(good, headers.orientation, 1),
    )
    # A graph pays for the branches of a mapped function at every call, 10 ms for those of `decode_image`.
    plain = tf.reduce_all((tf.gather(_DECODERS, rows.kind) == 0) & (rows.orientation == 1))
    found, tiles, sizes, problems = tf.cond(
        plain & (count == 1),
        lambda: _try_one(rows, settings),
        lambda: tf.cond(
            plain,
            lambda: _try_each(rows, lambda one, *_: Decoded(_decode_plain(one), tf.constant("")), settings),
            lambda: _try_each(rows, lambda one, kind, turn: decode_image(one, kind, turn, settings), settings),
        ),
    )
    # Where each image's tiles are among those that could be decoded; negative for the others.
    place_of = tf.math.unsorted_segment_max(tf.range(tf.size(found)), found, count)
    decoded = place_of >= 0
    # If one is missing, the last is `_nothing`.
    place_of = tf.where(decoded, place_of, tf.size(found) - 1)
    tiles, sizes, problems = (tf.gather(values, place_of) for values in (tiles, sizes, problems))
    problem = tf.where(good, problems, headers.problem)
    return tf.ensure_shape(tiles, [None, None, settings.height, settings.width, 3]), sizes, problem


class _Rows(NamedTuple):
    """Number, encoded image, kind and orientation of each image of a batch, `[N]`."""

    index: tf.Tensor
    encoded: tf.Tensor
    kind: tf.Tensor
    orientation: tf.Tensor


@as_written
def _try_one(rows: _Rows, settings: ImageConfig) -> tuple[tf.Tensor, ...]:
    """`_try_each` for one plain image: no threads, and in the data set, which is made anew at every call, nothing but
    what may fail.
    """
    found = tf.data.Dataset.from_tensors((rows.index[0], rows.encoded[0]))
    found = found.map(lambda index, one: (index, _decode_plain(one), tf.constant("")))
    nothing = (tf.constant(-1, tf.int64), tf.zeros([1, 1, 3], tf.uint8), tf.constant(str(readable.DAMAGED)))
    found = found.ignore_errors(log_warning=False).concatenate(tf.data.Dataset.from_tensors(nothing)).take(1)
    index, image, problem = found.get_single_element()
    return tuple(values[tf.newaxis] for values in (index, fit_image(image, settings), _size(image), problem))


@as_written
def _try_each(rows: _Rows, decode: Callable[..., Decoded], settings: ImageConfig) -> tuple[tf.Tensor, ...]:
    """Index, tiles, size and problem of the images that could be decoded, and at last `_nothing` if one could not."""

    def fitted(index: tf.Tensor, *one: tf.Tensor) -> tuple[tf.Tensor, ...]:
        image, problem = decode(*one)
        return index, fit_image(image, settings), _size(image), problem

    count = tf.size(rows.index, tf.int64)
    found = tf.data.Dataset.from_tensor_slices(tuple(rows))
    found = found.map(fitted, num_parallel_calls=_DECODED_AT_ONCE, deterministic=True)
    # The only try/except that a graph has. One for the batch: a data set for each image takes as long as decoding it.
    found = found.ignore_errors(log_warning=False).concatenate(_nothing(settings)).take(count)
    return found.batch(count).get_single_element()


def _refuse_slivers(headers: Headers, settings: ImageConfig) -> tf.Tensor:
    """A row of pixels is padded to a whole row of tiles: 50,000,000x1 would fill 25 GB."""
    covered = pixels_in_tiles(headers.height, headers.width, settings)
    words = str(readable.sliver(settings.max_pixels))
    return tf.where((headers.problem == "") & (covered > settings.max_pixels), words, headers.problem)


def pixels_in_tiles(height: tf.Tensor, width: tf.Tensor, settings: ImageConfig) -> tf.Tensor:
    """How many pixels an image of this size, int64 both, is padded to at least: no side is shorter than a tile's."""
    return tf.maximum(height, settings.height) * tf.maximum(width, settings.width)


def _nothing(settings: ImageConfig) -> tf.data.Dataset:
    """What stands for images that could not be decoded; of no row, which segments leave out."""
    tile = tf.zeros([1, settings.height, settings.width, 3], tf.uint8)
    return tf.data.Dataset.from_tensors(
        (tf.constant(-1, tf.int64), tile, tf.constant([1, 1]), tf.constant(str(readable.DAMAGED)))
    )


def fit_image(image: tf.Tensor, settings: ImageConfig) -> tf.Tensor:
    """uint8 `[h, w, 3]` -> uint8 `[tiles, height, width, 3]`; bilinear, antialiased where it shrinks."""
    if settings.fit == "tile":
        return _cut(image, settings, padding=0)
    inner = inner_size(_size(image), settings)

    def resized() -> tf.Tensor:
        return tf.saturate_cast(tf.round(tf.image.resize(image, inner, antialias=True)), tf.uint8)

    # To its own size an image would be resized to itself, in half the time of decoding it.
    fitting = tf.cond(tf.reduce_all(inner == _size(image)), lambda: image, resized)
    padded = _pad_to(fitting, settings.height, settings.width, padding=0)
    return tf.ensure_shape(padded, [settings.height, settings.width, 3])[tf.newaxis]


def fit_class_ids(class_ids: tf.Tensor, settings: ImageConfig) -> tf.Tensor:
    """uint8 `[h, w]` -> uint8 `[tiles, height, width]`; nearest neighbour only, padding is IGNORE_ID."""
    ids = class_ids[..., tf.newaxis]
    if settings.fit == "tile":
        return _cut(ids, settings, padding=IGNORE_ID)[..., 0]
    resized = tf.image.resize(ids, inner_size(_size(ids), settings), method="nearest")
    return _pad_to(resized, settings.height, settings.width, padding=IGNORE_ID)[tf.newaxis, ..., 0]


def _size(image: tf.Tensor) -> tf.Tensor:
    return tf.shape(image)[:2]


def _pad_to(image: tf.Tensor, height: tf.Tensor | int, width: tf.Tensor | int, padding: int) -> tf.Tensor:
    """Pads below and to the right."""
    missing_rows, missing_columns = height - tf.shape(image)[0], width - tf.shape(image)[1]
    return tf.pad(image, [[0, missing_rows], [0, missing_columns], [0, 0]], constant_values=padding)


def _cut(image: tf.Tensor, settings: ImageConfig, padding: int) -> tf.Tensor:
    """`[h, w, channels]` -> `[tiles, height, width, channels]`, row by row."""
    channels = image.shape[-1]
    covered = tile_grid(_size(image), settings) * tf.constant(tile_strides(settings)) + settings.tile_overlap
    patches = tf.image.extract_patches(
        _pad_to(image, covered[0], covered[1], padding)[tf.newaxis],
        sizes=[1, settings.height, settings.width, 1],
        strides=[1, *tile_strides(settings), 1],
        rates=[1, 1, 1, 1],
        padding="VALID",
    )
    return tf.reshape(patches, [-1, settings.height, settings.width, channels])
