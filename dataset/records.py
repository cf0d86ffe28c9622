"""Writes pairs as TFRecord shards of tf.train.Example, aside first and moved into place by one rename."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import tensorflow as tf

from dataset.examine import Content, Facts, read_content
from pipeline import features
from pipeline.config import Config

# Small enough that readers can share a split, large enough that headers do not matter.
_SHARD_BYTES: Final = 128 * 2**20


def make_example(facts: Facts, content: Content, group: str, config: Config) -> tf.train.Example:
    """One record; keys as in pipeline/features.py, where the config does not rename them."""
    keys = config.records
    values: dict[str, bytes | int] = {
        keys.image: content.image,
        keys.mask: content.mask,
        keys.id: facts.pair.id.encode(),
        features.IMAGE_FILENAME: facts.pair.image.name.encode(),
        features.IMAGE_FORMAT: content.image_format.encode(),
        features.IMAGE_HEIGHT: content.height,
        features.IMAGE_WIDTH: content.width,
    }
    if keys.group:
        values[keys.group] = group.encode()
    return tf.train.Example(features=tf.train.Features(feature={key: _feature(v) for key, v in values.items()}))


def write_version(
    target: Path,
    rows: Sequence[tuple[Facts, str, str]],
    config: Config,
    on_record: Callable[[], None],
) -> None:
    """Writes `rows` of (facts, group, split) to `target/{split}/*.tfrecord.gz`.

    Records are dealt in the order of a hash, so that readers need no shuffle of whole files and the bytes repeat.
    """
    aside = target.with_name(f".{target.name}.incomplete")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        for split in features.SPLITS:
            (aside / split).mkdir(parents=True)
            members = [(facts, group) for facts, group, where in rows if where == split]
            _write_split(aside / split, sorted(members, key=_shuffled(config.dataset.seed)), config, on_record)
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _shuffled(seed: int) -> Callable[[tuple[Facts, str]], bytes]:
    return lambda row: hashlib.sha256(f"{seed}/{row[0].pair.id}".encode()).digest()


def _write_split(
    directory: Path, rows: Sequence[tuple[Facts, str]], config: Config, on_record: Callable[[], None]
) -> None:
    options = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)
    shard, written, writer = 0, 0, None
    for facts, group in rows:
        record = make_example(facts, read_content(facts.pair, config), group, config).SerializeToString(
            deterministic=True
        )
        if writer is None or written + len(record) > _SHARD_BYTES:
            if writer is not None:
                writer.close()
            writer = tf.io.TFRecordWriter(str(directory / f"records-{shard:05d}.tfrecord.gz"), options)
            shard, written = shard + 1, 0
        writer.write(record)
        written += len(record)
        on_record()
    if writer is not None:
        writer.close()


def _feature(value: bytes | int) -> tf.train.Feature:
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
