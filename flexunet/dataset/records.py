"""Writes the records: Apache Beam makes one file of each plan of `flexunet.dataset.shards`.

The unit of work is a file, since no runner keeps the order of single records. Which worker makes it, in which order and
how often does not matter: the bytes are the same. On a runner with workers elsewhere, source and output must lie on a
file system that all of them mount.
"""

import pickle
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from uuid import uuid4

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from flexunet.core import features
from flexunet.core.beam import beam_arguments, prepare_beam
from flexunet.core.config.whole import Config
from flexunet.core.files import naming
from flexunet.dataset.assignment import Row, write_assignment
from flexunet.dataset.commit import aside
from flexunet.dataset.parallel import Workers
from flexunet.dataset.shards import Shard, plan_shards, write_shard


def write_version(
    target: Path,
    rows: Sequence[Row],
    config: Config,
    workers: Workers,
    on_record: Callable[[], None],
) -> None:
    """Writes `rows` to `target/{split}/*.tfrecord.gz`, which appears by one rename; an error leaves nothing.

    Args:
      target: the version's folder, not there yet.
      rows: in any order; records are written in the order of a hash, so that readers need no shuffle of whole files and
        the bytes repeat.
      config: keys, classes, seed, and where Beam runs.
      workers: help where Beam runs in this process.
      on_record: called for each record when its file is written, from any thread; not on runners whose workers are
        other processes.

    Raises:
      BadPair: an image or mask is no longer what was examined.
      OSError: the disk is full, closed or read-only; names `target`.
      UserError: a process was killed.
    """
    prepare_beam(config.beam)
    directory = aside(target)
    try:
        with naming(target):
            for split in features.SPLITS:
                (directory / split).mkdir(parents=True)
            shards = list(plan_shards(directory, rows, config.dataset.seed))
            with _at_home(workers, on_record) as home:
                _run(shards, config, home)
            _require_all(shards)
            for attempt in directory.glob("*/.*"):
                attempt.unlink()
            write_assignment(directory, rows, config.classes)
            directory.rename(target)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _run(shards: Sequence[Shard], config: Config, home: str) -> None:
    with beam.Pipeline(options=PipelineOptions(beam_arguments(config.beam.node("")))) as pipeline:
        _ = (
            pipeline
            # As bytes: Beam would pickle every entry again at each step, for twice the time of writing it.
            | "Shards" >> beam.Create([pickle.dumps(shard) for shard in shards])
            | "OneToAWorker" >> beam.Reshuffle()
            | "Write" >> beam.ParDo(_WriteShards(config, home))
        )


class _WriteShards(beam.DoFn):
    """Writes the shards of a bundle together, with the processes of this one where it is ingest's own."""

    def __init__(self, config: Config, home: str) -> None:
        self._config, self._home = config, home

    def start_bundle(self) -> None:
        self._shards: list[bytes] = []

    def process(self, pickled_shard: bytes) -> None:
        self._shards.append(pickled_shard)

    def finish_bundle(self) -> None:
        _write(self._shards, self._config, self._home)


def _require_all(shards: Sequence[Shard]) -> None:
    missing = [shard.file for shard in shards if not shard.file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{missing[0]} and {len(missing) - 1} others of {len(shards)} shards were not written, although the "
            "pipeline ended well: expected workers that mount the folder of the output"
        )


@dataclass
class _Home:
    workers: Workers
    on_record: Callable[[], None]
    error: Exception | None = None


# Neither callbacks nor processes can be pickled; Beam's workers inside this process find theirs here.
_HOMES: Final[dict[str, _Home]] = {}


@contextmanager
def _at_home(workers: Workers, on_record: Callable[[], None]) -> Iterator[str]:
    """Gives a name for both that can be pickled. Errors of a worker in this process come out as they were."""
    name = uuid4().hex
    home = _HOMES[name] = _Home(workers, on_record)
    try:
        yield name
    except Exception:
        # Beam turns a worker's error into text.
        if home.error is not None:
            raise home.error from None
        raise
    finally:
        del _HOMES[name]


def _write(shards: Sequence[bytes], config: Config, name: str) -> None:
    home = _HOMES.get(name)
    write = partial(write_shard, config=config)
    if home is None:
        deque(map(write, shards), maxlen=0)
        return
    try:
        for records in home.workers.map(write, shards):
            for _ in range(records):
                home.on_record()
    except Exception as error:
        home.error = error
        raise
