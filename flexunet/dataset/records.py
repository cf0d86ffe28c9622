"""Writes the records: names, order and size of the files are planned here, Apache Beam makes one file of each plan.

The unit of work is a file, since no runner keeps the order of single records. Which worker makes it, in which order and
how often does not matter: the bytes are the same. On a runner with workers elsewhere, source and output must lie on a
file system that all of them mount.
"""

import errno
import hashlib
import os
import pickle
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final
from uuid import uuid4

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions

from flexunet.core import features
from flexunet.core.beam import beam_arguments, prepare_beam
from flexunet.core.config.whole import Config
from flexunet.core.files import naming
from flexunet.dataset.assignment import Row, write_assignment
from flexunet.dataset.commit import aside
from flexunet.dataset.examine import Content, Facts, read_content
from flexunet.dataset.parallel import mapped, threads_for

# Small enough that readers and writers can share a split, large enough that headers do not matter: two cores write
# 250 MB in files of 32 MB in 0.7 of the time of files of 128 MB. Counted in bytes of the user's files: a shard of
# images that are converted (compressed TIFF, lossless JPEG) can become several times larger.
SHARD_BYTES: Final = 32 * 2**20
# Images and masks are compressed already, and deflating them again is half of the time of writing. Runs and Huffman
# codes alone take a third of level 1's time, and leave 1.000 of the demo's bytes instead of 0.982, of NEU-Seg's 0.975
# instead of 0.865: level 1 finds the keys again, which are much of such small records.
_COMPRESSION: Final = {"compression_type": "GZIP", "compression_level": 1, "compression_strategy": zlib.Z_RLE}
_NONE: Final = np.empty((0, 0), np.float16)
_OF_WRITING: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)
_NO_RIMS: Final = np.empty(0, np.int64)


@dataclass(frozen=True)
class Entry:
    """What a worker needs for one record: some hundred bytes, the thumbnail is not among them."""

    facts: Facts
    group: str


@dataclass(frozen=True)
class Shard:
    """A file to be, and its records in order."""

    file: Path
    entries: tuple[Entry, ...]


def write_version(
    target: Path,
    rows: Sequence[Row],
    config: Config,
    on_record: Callable[[], None],
) -> None:
    """Writes `rows` to `target/{split}/*.tfrecord.gz`, which appears by one rename; an error leaves nothing.

    Args:
      target: the version's folder, not there yet.
      rows: in any order; records are written in the order of a hash, so that readers need no shuffle of whole files and
        the bytes repeat.
      config: keys, classes, seed, and where Beam runs.
      on_record: called after each record, from any thread; not on runners whose workers are other processes.

    Raises:
      OSError: the disk is full, closed or read-only; names `target`.
    """
    prepare_beam(config.beam)
    directory = aside(target)
    try:
        with naming(target):
            for split in features.SPLITS:
                (directory / split).mkdir(parents=True)
            shards = list(plan_shards(directory, rows, config.dataset.seed))
            with _watched(on_record) as watch:
                _run(shards, config, watch)
            _require_all(shards)
            for attempt in directory.glob("*/.*"):
                attempt.unlink()
            write_assignment(directory, rows, config.classes)
            directory.rename(target)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def plan_shards(directory: Path, rows: Iterable[Row], seed: int) -> Iterator[Shard]:
    """Each split shuffled by a hash of seed and id, cut where the files it stands for reach `SHARD_BYTES`."""
    shuffled = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}/{row.facts.pair.id}".encode()).digest())
    for split in features.SPLITS:
        entries = [Entry(_light(row.facts), row.group) for row in shuffled if row.split == split]
        for number, part in enumerate(_cut(entries)):
            yield Shard(directory / split / f"records-{number:05d}.tfrecord.gz", part)


def _light(facts: Facts) -> Facts:
    """Without what a worker does not need."""
    return replace(facts, thumbnail=_NONE, rims=_NO_RIMS, losses=None)


def make_example(entry: Entry, content: Content, config: Config) -> tf.train.Example:
    """One record; keys as in flexunet/core/features.py, where the config does not rename them."""
    keys, facts = config.records, entry.facts
    shares = facts.pixels / max(1, facts.pixels.sum())
    values: dict[str, bytes | int | float] = {
        keys.image: content.image,
        keys.mask: content.mask,
        keys.id: facts.pair.id.encode(),
        features.IMAGE_FILENAME: facts.pair.image.name.encode(),
        features.IMAGE_FORMAT: facts.image_format.encode(),
        features.IMAGE_HEIGHT: facts.height,
        features.IMAGE_WIDTH: facts.width,
        features.IMAGE_BRIGHTNESS: facts.brightness,
        **{features.share_key(c.name): float(share) for c, share in zip(config.classes, shares, strict=True)},
        **{features.METADATA_PREFIX + column: value.encode() for column, value in facts.metadata.items()},
    }
    if keys.group:
        values[keys.group] = entry.group.encode()
    example = tf.train.Example()
    for key, value in values.items():
        _set(example.features.feature[key], value)
    return example


def write_shard(shard: Shard, config: Config, on_record: Callable[[], None] = lambda: None) -> None:
    """Makes the file of `shard`, by one rename: runners try again, and some run two attempts side by side."""
    attempt = shard.file.with_name(f".{shard.file.name}.{uuid4().hex}")
    options = tf.io.TFRecordOptions(**_COMPRESSION)
    try:
        with _system_errors(), tf.io.TFRecordWriter(str(attempt), options) as writer:
            facts = [entry.facts for entry in shard.entries]
            contents = mapped(partial(read_content, config=config), facts, threads_for([f.pair for f in facts]))
            for entry, content in zip(shard.entries, contents, strict=True):
                writer.write(make_example(entry, content, config).SerializeToString(deterministic=True))
                on_record()
        attempt.replace(shard.file)
    finally:
        attempt.unlink(missing_ok=True)


@contextmanager
def _system_errors() -> Iterator[None]:
    """TensorFlow's errors of writing as Python's: it has no number in them, only the system's own words."""
    try:
        yield
    except tf.errors.OpError as error:
        number = next((number for number in _OF_WRITING if os.strerror(number) in error.message), None)
        if number is None:
            raise
        raise OSError(number, error.message) from None


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


def _run(shards: Sequence[Shard], config: Config, watch: str) -> None:
    with beam.Pipeline(options=PipelineOptions(beam_arguments(config.beam.node("")))) as pipeline:
        _ = (
            pipeline
            # As bytes: Beam would pickle every entry again at each step, for twice the time of writing it.
            | "Shards" >> beam.Create([pickle.dumps(shard) for shard in shards])
            | "OneToAWorker" >> beam.Reshuffle()
            | "Write" >> beam.ParDo(_WriteShards(config, watch))
        )


class _WriteShards(beam.DoFn):
    """Writes as many shards at once as there are cores: compressing takes most of the time and needs no lock."""

    def __init__(self, config: Config, watch: str) -> None:
        self._config, self._watch = config, watch

    def start_bundle(self) -> None:
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._pending: list[Future[None]] = []

    def process(self, pickled_shard: bytes) -> None:
        self._pending.append(self._pool.submit(_write_watched, pickled_shard, self._config, self._watch))

    def finish_bundle(self) -> None:
        with self._pool:
            for written in self._pending:
                written.result()


def _require_all(shards: Sequence[Shard]) -> None:
    missing = [shard.file for shard in shards if not shard.file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{missing[0]} and {len(missing) - 1} others of {len(shards)} shards were not written, although the "
            "pipeline ended well: expected workers that mount the folder of the output"
        )


@dataclass
class _Watch:
    on_record: Callable[[], None]
    error: Exception | None = None


# Callbacks cannot be pickled; workers inside this process find theirs here.
_WATCHES: Final[dict[str, _Watch]] = {}


@contextmanager
def _watched(on_record: Callable[[], None]) -> Iterator[str]:
    """Gives a name for `on_record` that can be pickled. Errors of a worker in this process come out as they were."""
    name = uuid4().hex
    watch = _WATCHES[name] = _Watch(on_record)
    try:
        yield name
    except Exception:
        # Beam turns a worker's error into text.
        if watch.error is not None:
            raise watch.error from None
        raise
    finally:
        del _WATCHES[name]


def _write_watched(pickled_shard: bytes, config: Config, name: str) -> None:
    shard: Shard = pickle.loads(pickled_shard)  # noqa: S301 - made in _run, nothing else comes here
    watch = _WATCHES.get(name)
    if watch is None:
        return write_shard(shard, config)
    try:
        return write_shard(shard, config, watch.on_record)
    except Exception as error:
        watch.error = error
        raise


def _set(feature: tf.train.Feature, value: bytes | int | float) -> None:
    """In its place: a message that is made apart is copied into the next, image and all."""
    if isinstance(value, bytes):
        feature.bytes_list.value.append(value)
    elif isinstance(value, float):
        feature.float_list.value.append(value)
    else:
        feature.int64_list.value.append(value)
