"""What can be said of one record alone: its keys, and whether image and mask are read by all that will read them.

The image is decoded by the graph's own function, in which Transform and the served model read it too: a broken test
image would otherwise fail in Evaluator, after the training.
"""

import functools
import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from flexunet.core import palette, readable
from flexunet.core.config.data import ImageConfig, TransformConfig
from flexunet.core.features import IGNORE_ID, SPLIT_TRAIN
from flexunet.core.pictures import Picture, Refused, open_mask
from flexunet.core.problems import Problem
from flexunet.core.readable import Words
from flexunet.core.sources import source_of
from transform_module.graphs import as_written
from transform_module.images import decode_one

_LONGEST_ID: Final = 80
_ANEW: Final = "write the records anew"


class Checked(NamedTuple):
    """What one record adds to the counts of its split, and what is wrong with it."""

    split: str
    image_id: str | None
    counts: Counter[str]
    problem: Problem | None


def check_record(record: bytes, split: str, config: TransformConfig) -> Checked:
    """All that can be said of one record alone."""
    image_id = None
    try:
        example = _parse(record)
        named = _only_value(example, config.records.id)
        image_id = _one_line(named)
        _require_training(named.decode(errors="replace"), split, config)
        return Checked(split, image_id, _count(example, config), None)
    except _BadRecord as bad:
        where = f"{image_id or 'record without id'} ({split})"
        return Checked(split, image_id, Counter(bad=1), Problem(where, *bad.words))


class _BadRecord(Exception):
    """A record that cannot be used."""

    def __init__(self, what: str, expected: str, repair: str) -> None:
        super().__init__(what)
        self.words = Words(what, expected, repair)


def _require_training(image_id: str, split: str, config: TransformConfig) -> None:
    source = source_of(image_id, config.dataset.sources)
    if source and split != SPLIT_TRAIN:
        raise _BadRecord(f"it is from {source} of dataset.sources", "such images in train alone", "ingest again")


def _parse(record: bytes) -> tf.train.Example:
    try:
        return tf.train.Example.FromString(record)
    except DecodeError:
        raise _BadRecord("not a tf.train.Example", "one in each record", "write the records anew") from None


def _only_value(example: tf.train.Example, key: str) -> bytes:
    feature = example.features.feature
    repair = "add it to the records, or give its key in [records]"
    if key not in feature:
        raise _BadRecord(f"no feature {key}, only {', '.join(sorted(feature)) or 'none'}", "one bytes value", repair)
    values = feature[key].bytes_list.value
    if len(values) != 1:
        kind = feature[key].WhichOneof("kind") or "no list"
        number = len(getattr(feature[key], kind).value) if kind != "no list" else 0
        raise _BadRecord(f"feature {key} holds {number} values ({kind})", "one bytes value", repair)
    return values[0]


def _one_line(image_id: bytes) -> str:
    """The id as text, short and printable whatever feature the config calls the id; different ids stay different."""
    text = image_id[:_LONGEST_ID].decode(errors="backslashreplace")
    if len(image_id) > _LONGEST_ID:
        text += f"...{hashlib.blake2b(image_id, digest_size=8).hexdigest()}"
    return text if text.isprintable() and text else repr(text)


def _count(example: tf.train.Example, config: TransformConfig) -> Counter[str]:
    """One image, and the pixels of each class; headers are checked before anything is decoded."""
    keys = config.records
    if keys.group:
        _only_value(example, keys.group)
    encoded_image, encoded_mask = (_only_value(example, key) for key in (keys.image, keys.mask))
    width, height = _image_size(encoded_image, config.image)
    mask = _mask(encoded_mask, config)
    if mask.image.size != (width, height):
        what = f"the mask is {mask.image.width}x{mask.image.height} pixels, its image {width}x{height}"
        raise _BadRecord(what, "the same size", "export the mask at the image's size, upright as EXIF has it")
    return _count_pixels(np.asarray(mask.image.convert("RGB")), config)


def _image_size(encoded: bytes, settings: ImageConfig) -> tuple[int, int]:
    """Width and height of the upright image."""
    try:
        size, problem = _graph_reader(settings)(encoded)
    except tf.errors.InvalidArgumentError:
        raise _BadRecord(*_of("image", readable.DAMAGED)) from None
    words = problem.numpy().decode()
    if words:
        raise _BadRecord(f"the image is refused ({words})", "an image that every reader reads", _ANEW)
    height, width = size.numpy().tolist()
    return width, height


@functools.cache
def _graph_reader(settings: ImageConfig) -> Callable[[bytes | tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Encoded image -> size int32 `[2]`, height first, and why it is refused, "" if it is not."""

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    @as_written
    def read(encoded: bytes | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, problem = decode_one(encoded, settings)
        return tf.shape(image)[:2], problem

    return read


def _of(role: str, words: Words) -> Words:
    return Words(f"the {role}: {words.what}", words.expected, _ANEW)


def _mask(encoded: bytes, config: TransformConfig) -> Picture:
    """An opaque, upright PNG of 8 bits: the graph would drop alpha and low bytes, and turns no mask."""
    try:
        mask = open_mask(encoded, config.image.max_pixels)
    except Refused as refused:
        raise _BadRecord(*_of("mask", refused.words)) from None
    if mask.lossy:
        raise _BadRecord(f"the mask is a {mask.kind.name}, which blurs class borders", "PNG", "export the masks as PNG")
    if mask.kind is not readable.PNG:
        raise _BadRecord(f"the mask is a {mask.kind.name}", "PNG of 8 bits", "export the masks as PNG")
    if mask.orientation > 1:
        raise _BadRecord("the mask is to be turned by EXIF", "an upright mask", "export the masks without EXIF")
    alpha = mask.image.convert("RGBA").getchannel("A").getextrema() if mask.image.has_transparency_data else (255, 255)
    if alpha != (255, 255):
        raise _BadRecord("the mask is not opaque", "a mask without alpha", "export the masks without alpha")
    return mask


def _count_pixels(mask_rgb: np.ndarray, config: TransformConfig) -> Counter[str]:
    class_ids, known = palette.class_ids_from_rgb(mask_rgb, config.classes, config.records)
    if not known.all():
        raise _unknown_colors(mask_rgb[~known], config)
    pixels = np.bincount(class_ids.ravel(), minlength=IGNORE_ID + 1)
    counts = Counter(images=1, ignored=int(pixels[IGNORE_ID]))
    for class_id, segmentation_class in enumerate(config.classes):
        if pixels[class_id]:
            counts[pixels_key(segmentation_class.name)] = int(pixels[class_id])
            counts[images_key(segmentation_class.name)] = 1
    return counts


def pixels_key(name: str) -> str:
    """The count of a class's pixels."""
    return f"pixels/{name}"


def images_key(name: str) -> str:
    """The count of images that show a class."""
    return f"images_with/{name}"


def _unknown_colors(pixels: np.ndarray, config: TransformConfig) -> _BadRecord:
    colors, counts = np.unique(pixels, axis=0, return_counts=True)
    commonest = " ".join(map(str, colors[counts.argmax()].tolist()))
    what = f"{len(pixels)} pixels of the mask are outside the palette, in {len(colors)} colours, most RGB {commonest}"
    return _BadRecord(what, f"only {_palette(config)}", "correct the mask or the colours in [[classes]]")


def _palette(config: TransformConfig) -> str:
    colors = [(c.name, c.color) for c in config.classes]
    if config.records.ignore_color is not None:
        colors.append(("unlabelled", config.records.ignore_color))
    return ", ".join(f"{name} {' '.join(map(str, color))}" for name, color in colors)
