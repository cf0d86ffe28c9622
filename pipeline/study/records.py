"""Records as a study reads them: the files of a version, their bytes, and what a record holds."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import tensorflow as tf

from flexunet.core.config.data import TransformConfig
from transform_module.images import read_rows
from transform_module.pipelines import read_records
from transform_module.preprocessing import Row, decode_pair


def records_of(files: Sequence[Path]) -> Iterator[bytes]:
    """Serialized records, one after the other."""
    return (bytes(record) for record in read_records(files).as_numpy_iterator())


def record_files(version: Path, split: str) -> list[Path]:
    """Of a split of a version that ingest wrote, in their order."""
    return sorted((version / split).glob("*.tfrecord.gz"))


def decode_record(
    record: tf.Tensor, config: TransformConfig, also: Sequence[str] = ()
) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
    """A serialized record -> its strings by key, `also` named ones too; RGB uint8 `[h, w, 3]`; ids uint8 `[h, w]`."""
    keys = config.records
    names = (keys.image, keys.mask, keys.id, *also)
    row = tf.io.parse_single_example(record, {name: tf.io.FixedLenFeature([], tf.string) for name in names})
    headers = read_rows(row[keys.image][tf.newaxis], config.image)
    header = tf.nest.map_structure(lambda x: x[0], headers)
    return row, *decode_pair(Row(row[keys.image], row[keys.mask], row[keys.id], header), config)
