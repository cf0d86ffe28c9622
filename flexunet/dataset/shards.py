"""Files of records: which records go into which, in what order, and their bytes.

Any process makes the same bytes, and none needs TensorFlow for it, which takes seconds to import: TFRecord is a frame
of length and checksums, https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details.
"""

import hashlib
import pickle
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from uuid import uuid4

import google_crc32c
import numpy as np

from flexunet.core import features
from flexunet.core.config.whole import Config
from flexunet.dataset.assignment import Row
from flexunet.dataset.examine import Content, Facts, read_content
from flexunet.dataset.protos import example_pb2 as pb

# Small enough that readers can share a split, large enough that headers do not matter. Counted in bytes of the user's
# files: a shard of images that are converted (compressed TIFF, lossless JPEG) can become several times larger.
SHARD_BYTES: Final = 32 * 2**20
# As they are: images and masks are compressed already. Runs and Huffman codes alone left 1.000 of the demo's bytes, of
# NEU-Seg's 0.975, and took more than half of the time of writing, and as much of each reading.
_STORED: Final = 0
_GZIP: Final = zlib.MAX_WBITS + 16
# Of the format: the checksum of data that holds checksums would be weak.
_MASK_DELTA: Final = 0xA282EAD8
_NONE: Final = np.empty((0, 0), np.float16)
_NO_RIMS: Final = np.empty(0, np.int64)


@dataclass(frozen=True)
class Entry:
    """What is needed for one record: some hundred bytes, the thumbnail is not among them."""

    facts: Facts
    group: str


@dataclass(frozen=True)
class Shard:
    """A file to be, and its records in order."""

    file: Path
    entries: tuple[Entry, ...]


def plan_shards(directory: Path, rows: Iterable[Row], seed: int) -> Iterator[Shard]:
    """Each split shuffled by a hash of seed and id, cut where the files it stands for reach `SHARD_BYTES`."""
    shuffled = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}/{row.facts.pair.id}".encode()).digest())
    for split in features.SPLITS:
        entries = [Entry(_light(row.facts), row.group) for row in shuffled if row.split == split]
        for number, part in enumerate(_cut(entries)):
            yield Shard(directory / split / f"records-{number:05d}.tfrecord.gz", part)


def _cut(entries: Iterable[Entry]) -> Iterator[tuple[Entry, ...]]:
    part: list[Entry] = []
    filled = 0
    for entry in entries:
        size = entry.facts.pair.file_bytes()
        if part and filled + size > SHARD_BYTES:
            yield tuple(part)
            part, filled = [], 0
        part.append(entry)
        filled += size
    if part:
        yield tuple(part)


def _light(facts: Facts) -> Facts:
    """Without what a worker does not need."""
    return replace(facts, thumbnail=_NONE, rims=_NO_RIMS, losses=None)


def write_shard(pickled: bytes, config: Config) -> int:
    """Makes the file of a shard, by one rename: runners try again, and some run two attempts side by side.

    Args:
      pickled: a `Shard`, pickled once and not anew at every step to a worker.
      config: keys and classes.

    Returns:
      The number of records.

    Raises:
      BadPair: an image or mask is no longer what was examined.
      OSError: the disk is full, closed or read-only.
    """
    shard: Shard = pickle.loads(pickled)  # noqa: S301 - made in write_version, nothing else comes here
    attempt = shard.file.with_name(f".{shard.file.name}.{uuid4().hex}")
    packer = zlib.compressobj(_STORED, wbits=_GZIP)
    try:
        with attempt.open("wb") as file:
            for entry in shard.entries:
                file.write(packer.compress(_framed(make_record(entry, config))))
            file.write(packer.flush())
        attempt.replace(shard.file)
    finally:
        attempt.unlink(missing_ok=True)
    return len(shard.entries)


def make_record(entry: Entry, config: Config) -> bytes:
    """A tf.train.Example; keys as in flexunet/core/features.py, where the config does not rename them."""
    example = pb.Example()
    feature = example.features.feature
    for key, value in _values(entry, read_content(entry.facts, config), config).items():
        # In its place: a message that is made apart is copied into the next, image and all.
        if isinstance(value, bytes):
            feature[key].bytes_list.value.append(value)
        elif isinstance(value, float):
            feature[key].float_list.value.append(value)
        else:
            feature[key].int64_list.value.append(value)
    return example.SerializeToString(deterministic=True)


def _values(entry: Entry, content: Content, config: Config) -> dict[str, bytes | int | float]:
    keys, facts = config.records, entry.facts
    shares = (facts.pixels / max(1, facts.pixels.sum())).tolist()
    values: dict[str, bytes | int | float] = {
        keys.image: content.image,
        keys.mask: content.mask,
        keys.id: facts.pair.id.encode(),
        features.IMAGE_FILENAME: facts.pair.image.name.encode(errors="backslashreplace"),
        features.IMAGE_FORMAT: facts.image_format.encode(),
        features.IMAGE_HEIGHT: facts.height,
        features.IMAGE_WIDTH: facts.width,
        features.IMAGE_BRIGHTNESS: facts.brightness,
        **{features.share_key(c.name): share for c, share in zip(config.classes, shares, strict=True)},
        **{features.METADATA_PREFIX + column: value.encode() for column, value in facts.metadata.items()},
    }
    if keys.group:
        values[keys.group] = entry.group.encode()
    return values


def _framed(record: bytes) -> bytes:
    """Length, its checksum, the record, its checksum."""
    length = struct.pack("<Q", len(record))
    return b"".join([length, _checksum(length), record, _checksum(record)])


def _checksum(content: bytes) -> bytes:
    value = google_crc32c.value(content)
    rotated = (value >> 15 | value << 17) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + _MASK_DELTA) & 0xFFFFFFFF)
