"""RecordGen takes the newest version of the newest span, in bounded memory."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from examples import serialized, write_examples

RECORD_BYTES = 200_000
RECORDS = 200

# In a process of its own, whose peak memory is the node's.
SCRIPT = """
import json, sys, tempfile
from tfx import v1 as tfx
from tfx.orchestration import metadata
from components.record_gen import RecordGen
from benchmarks.memory import peak_mebibytes
from flexunet.core.beam import LOCAL_BEAM_ARGS

data, root, tempfile.tempdir = sys.argv[1:]
pipeline = tfx.dsl.Pipeline(
    pipeline_name="copy", pipeline_root=root, components=[RecordGen(data, 1, "code")],
    beam_pipeline_args=list(LOCAL_BEAM_ARGS),
    metadata_connection_config=metadata.sqlite_metadata_connection_config(root + "/metadata.db"))
before = peak_mebibytes()
tfx.orchestration.LocalDagRunner().run(pipeline)
print(json.dumps(peak_mebibytes() - before))
"""


def write(directory: Path, marks: list[bytes], padding: int = 0) -> None:
    noise = np.random.default_rng(0)
    examples = (serialized({"image/id": mark, "image/encoded": noise.bytes(padding)}) for mark in marks)
    write_examples(directory / "records-00000.tfrecord.gz", examples)


def ids(directory: Path) -> list[bytes]:
    dataset = tf.data.TFRecordDataset([str(p) for p in sorted(directory.glob("*"))], "GZIP")
    examples = (tf.train.Example.FromString(record.numpy()) for record in dataset)
    return [example.features.feature["image/id"].bytes_list.value[0] for example in examples]


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory, run_forked: Callable[..., str]) -> tuple[Path, float]:
    """The artifact's folder, and by how many MB the node's process grew."""
    folder = tmp_path_factory.mktemp("records")
    for span, version, padding, records in ((1, 1, 0, 1), (2, 1, 0, 1), (2, 2, RECORD_BYTES, RECORDS)):
        for split in ("train", "eval", "test"):
            count = records if split == "train" else 2
            marks = [f"{span}.{version}.{split}.{i}".encode() for i in range(count)]
            write(folder / "data" / f"span-{span}" / f"version-{version}" / split, marks, padding)
    (folder / "root").mkdir()
    (folder / "temporary").mkdir()
    printed = run_forked(SCRIPT, folder / "data", folder / "root", folder / "temporary")
    [artifact] = (folder / "root" / "RecordGen" / "examples").iterdir()
    return artifact, json.loads(printed.splitlines()[-1])


def test_the_newest_version_of_the_newest_span_is_copied_whole(copied: tuple[Path, float]) -> None:
    artifact, _ = copied
    for split, count in (("train", RECORDS), ("eval", 2), ("test", 2)):
        assert ids(artifact / f"Split-{split}") == [f"2.2.{split}.{i}".encode() for i in range(count)]


def test_files_are_copied_as_they_are(copied: tuple[Path, float]) -> None:
    """The sizes that ingest has cut for reading in parallel; an engine would write one for each of its bundles."""
    artifact, _ = copied
    source = artifact.parents[3] / "data" / "span-2" / "version-2"
    for split in ("train", "eval", "test"):
        copies = sorted((artifact / f"Split-{split}").iterdir())
        assert [path.name for path in copies] == ["data_tfrecord-00000-of-00001.gz"]
        assert [path.read_bytes() for path in copies] == [f.read_bytes() for f in sorted((source / split).iterdir())]


def test_memory_does_not_grow_with_the_records(copied: tuple[Path, float]) -> None:
    """The stock executor grew by 354 MB for 80 MB of records and by 1,736 MB for 320 MB."""
    _, grown = copied
    assert grown < 120


def test_tfx_packs_no_copy_of_itself_into_the_temporary_folder(copied: tuple[Path, float]) -> None:
    artifact, _ = copied
    temporary = artifact.parents[2].with_name("temporary")
    assert temporary.is_dir() and not list(temporary.rglob("tfx*"))
