"""Folds by group over `train` and `eval` together; `test` stays out.

Each fold has two parts, one of which steers training when the fold is not the one that is held out: so every group is
predicted once by a model that neither learnt from it nor was chosen by it. A part is a file of records, and for each
way of bringing images to a model's size a file of tiles, as Transform would give them. Groups with an image of
`dataset.sources` train in every fold and are never held out.
"""

import hashlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import tensorflow as tf
from pydantic import BaseModel

from flexunet.core import features
from flexunet.core.config.data import TransformConfig
from flexunet.core.config.section import part_of
from flexunet.core.config.whole import Config
from flexunet.core.errors import NodeFailed, UserError, last_line
from flexunet.core.files import write_json
from flexunet.core.sources import source_of
from flexunet.dataset.manifest import newest_versions
from flexunet.dataset.stratify import assign_splits
from pipeline.fingerprint import code_fingerprint
from pipeline.study.records import decode_record, record_files, records_of
from transform_module.graphs import as_written
from transform_module.pipelines import read_records
from transform_module.preprocessing import preprocessing_fn

logger = logging.getLogger("flexunet.study")

PARTS: Final = (features.SPLIT_TRAIN, features.SPLIT_EVAL)
_SIZES: Final = "sizes.json"
# What only trains, in every fold.
_SOURCES: Final = "sources.tfrecord.gz"


class FoldSize(BaseModel):
    """Images and groups of a fold, both parts together."""

    images: int
    groups: int


class _Sizes(BaseModel):
    folds: list[FoldSize]


@dataclass(frozen=True)
class Folds:
    """Records that are assigned; `directory` holds a file for each part of each fold."""

    directory: Path
    sizes: tuple[FoldSize, ...]

    def records(self, fold: int) -> list[Path]:
        """Of the fold that is held out."""
        return [self.directory / _file(fold, part) for part in PARTS]

    def tiles(self, config: TransformConfig, held_out: int) -> tuple[list[Path], list[Path]]:
        """What a model learns from and what steers it, of the other folds; made at the first call."""
        code = code_fingerprint(("transform_module.preprocessing",))
        folder = self.directory / f"tiles-{digest([config.model_dump_json(), code])}"
        if not folder.is_dir():
            _transform(self.directory, config, folder)
        others = [fold for fold in range(len(self.sizes)) if fold != held_out]
        train, steering = ([folder / _file(fold, part) for fold in others] for part in PARTS)
        sources = folder / _SOURCES
        return [*train, *([sources] if sources.exists() else [])], steering


def make_folds(data: Path, config: Config, count: int, out: Path) -> Folds:
    """Assigns the groups of the records that a run would read, stratified by the classes they show.

    Args:
      data: what `flexunet ingest` wrote.
      config: classes, records, spans, and the shares and the seed of `[dataset]`.
      count: how many folds, at least 2.
      out: gets a folder; records that were assigned before are found there again.

    Raises:
      UserError: no records, fewer groups than parts, or too few defects to steer by.
      NodeFailed: a record cannot be decoded.
    """
    _leave_gpus_to_trainings()
    files = _files(data, config)
    facts = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    shares = config.dataset.model_dump_json(include={"train", "eval", "seed"})
    # Not their shares, by which arms may differ.
    sources = sorted(config.dataset.sources)
    sections = part_of(config, TransformConfig).model_dump_json(include={"classes", "records"})
    directory = out.resolve() / f"folds-{digest([str(count), shares, sections, *sources, *map(str, facts)])}"
    if not directory.is_dir():
        _write(files, config, count, directory)
    sizes = _Sizes.model_validate_json((directory / _SIZES).read_text(encoding="utf-8"))
    return Folds(directory, tuple(sizes.folds))


def _leave_gpus_to_trainings() -> None:
    """TensorFlow takes all of a GPU's memory: what a study itself decodes and predicts runs on the processor."""
    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:
        logger.warning("this process has taken the GPU's memory already: the trainings of the study may find none")


def _files(data: Path, config: Config) -> list[Path]:
    found = newest_versions(data, config.dataset.span_limit)
    return [path for version in found for part in PARTS for path in record_files(version, part)]


class _Image(NamedTuple):
    """What decides where an image goes."""

    image_id: str
    group: str
    defects: frozenset[int]


def _write(files: Sequence[Path], config: Config, count: int, directory: Path) -> None:
    images = _images(files, config)
    only_train = {image.group for image in images if source_of(image.image_id, config.dataset.sources)}
    dealt = iter(_assign([image for image in images if image.group not in only_train], config, count, directory))
    parts = [_SOURCES if image.group in only_train else next(dealt) for image in images]
    aside = _emptied(directory)
    writers = {part: _writer(aside / part) for part in sorted(set(parts))}
    for record, part in zip(records_of(files), parts, strict=True):
        writers[part].write(record)
    for writer in writers.values():
        writer.close()
    groups: list[set[str]] = [set() for _ in range(count)]
    numbers = [0] * count
    for image, part in zip(images, parts, strict=True):
        if part == _SOURCES:
            continue
        fold = int(part.partition("-")[0])
        groups[fold].add(image.group)
        numbers[fold] += 1
    sizes = [{"images": n, "groups": len(of_fold)} for n, of_fold in zip(numbers, groups, strict=True)]
    write_json(aside / _SIZES, {"folds": sizes})
    aside.rename(directory)


def _images(files: Sequence[Path], config: Config) -> list[_Image]:
    transform = part_of(config, TransformConfig)
    keys = config.records
    also = [keys.group] if keys.group else []

    @as_written
    def facts(record: tf.Tensor) -> tuple[tf.Tensor, ...]:
        row, _, class_ids = decode_record(record, transform, also)
        return row[keys.id], row[keys.group or keys.id], tf.unique(tf.reshape(class_ids, [-1]))[0]

    dataset = read_records(files).map(facts, tf.data.AUTOTUNE)
    no_defect = {features.BACKGROUND_ID, features.IGNORE_ID}
    with _decoding():
        return [
            _Image(image_id.decode(), group.decode(), frozenset(map(int, present)) - no_defect)
            for image_id, group, present in dataset.as_numpy_iterator()
        ]


def _assign(images: Sequence[_Image], config: Config, count: int, directory: Path) -> list[str]:
    """The name of the file of each image."""
    labels = np.unique([image.group for image in images], return_inverse=True)[1]
    groups = len({*labels.tolist()})
    if groups < 2 * count:
        raise UserError(
            f"{directory.parent}: {groups} groups in train and eval, expected at least {2 * count} for {count} folds: "
            "lower --folds or add images"
        )
    wanted = config.dataset
    shares = {part: getattr(wanted, part) / (wanted.train + wanted.eval) / count for part in PARTS}
    fractions = {_file(fold, part): shares[part] for fold in range(count) for part in PARTS}
    keys = [f"{image.group}/{image.image_id}" for image in images]
    parts = assign_splits(labels, keys, [image.defects for image in images], fractions, wanted.seed)
    steering = {part for image, part in zip(images, parts, strict=True) if image.defects} & _steering_files(count)
    if len(steering) < 2:
        # What steers a fold's training is of the others.
        raise UserError(
            f"{directory.parent}: {len(steering)} of {count} folds have an image with a defect to steer the others' "
            "training by, expected at least 2: raise dataset.eval or add images with defects"
        )
    return parts


def _steering_files(count: int) -> set[str]:
    return {_file(fold, features.SPLIT_EVAL) for fold in range(count)}


def _transform(directory: Path, config: TransformConfig, target: Path) -> None:
    columns = config.records
    keys = [columns.image, columns.mask, columns.id, *([columns.group] if columns.group else [])]

    # As TFT traces it: the function is a graph's already, and AutoGraph warns of the configuration that it reads.
    @as_written
    def tiles(record: tf.Tensor) -> dict[str, tf.Tensor]:
        row = tf.io.parse_single_example(record, {key: tf.io.FixedLenFeature([1], tf.string) for key in keys})
        return preprocessing_fn({key: row[key][tf.newaxis] for key in keys}, {"config": config.model_dump_json()})

    aside = _emptied(target)
    for file in sorted(directory.glob("*.tfrecord.gz")):
        dataset = read_records([file]).map(tiles, tf.data.AUTOTUNE)
        with _writer(aside / file.name) as writer, _decoding():
            for row in dataset.as_numpy_iterator():
                example = tf.train.Example()
                for name, value in row.items():
                    example.features.feature[name].bytes_list.value.append(value[0])
                writer.write(example.SerializeToString())
    aside.rename(target)


@contextmanager
def _decoding() -> Iterator[None]:
    """Raises NodeFailed for what the graph refuses; its words name the image."""
    try:
        yield
    except tf.errors.OpError as error:
        raise NodeFailed(f"Transform failed: {last_line(error)}") from error


def _file(fold: int, part: str) -> str:
    return f"{fold}-{part}.tfrecord.gz"


def _writer(path: Path) -> tf.io.TFRecordWriter:
    return tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions("GZIP", compression_level=1))


def _emptied(directory: Path) -> Path:
    """A folder beside, which becomes `directory` by a rename."""
    aside = directory.with_name(f".{directory.name}.incomplete")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    return aside


def digest(parts: Sequence[str]) -> str:
    """Names a folder or a file by all that decides what it holds."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
