"""RecordGen takes the newest version of the newest span, in bounded memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

ROOT = Path(__file__).parents[2]
RECORD_BYTES = 200_000
RECORDS = 200

# In a process of its own, whose peak memory is the node's.
SCRIPT = """
import json, sys
from components.record_gen import RecordGen
from tfx import v1 as tfx
from tfx.orchestration import metadata
from benchmarks.memory import peak_mebibytes
from flexunet.core.beam import LOCAL_BEAM_ARGS

data, root = sys.argv[1:]
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
    directory.mkdir(parents=True)
    options = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)
    with tf.io.TFRecordWriter(str(directory / "records-00000.tfrecord.gz"), options) as writer:
        for mark in marks:
            values = {"image/id": mark, "image/encoded": noise.bytes(padding)}
            feature = {k: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v])) for k, v in values.items()}
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


def ids(directory: Path) -> list[bytes]:
    dataset = tf.data.TFRecordDataset([str(p) for p in sorted(directory.glob("*"))], "GZIP")
    examples = (tf.train.Example.FromString(record.numpy()) for record in dataset)
    return [example.features.feature["image/id"].bytes_list.value[0] for example in examples]


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The artifact's folder, and by how many MB the node's process grew."""
    folder = tmp_path_factory.mktemp("records")
    for span, version, padding, records in ((1, 1, 0, 1), (2, 1, 0, 1), (2, 2, RECORD_BYTES, RECORDS)):
        for split in ("train", "eval", "test"):
            count = records if split == "train" else 2
            marks = [f"{span}.{version}.{split}.{i}".encode() for i in range(count)]
            write(folder / "data" / f"span-{span}" / f"version-{version}" / split, marks, padding)
    (folder / "root").mkdir()
    (folder / "temporary").mkdir()
    command = [sys.executable, "-c", SCRIPT, str(folder / "data"), str(folder / "root")]
    environment = {**os.environ, "TMPDIR": str(folder / "temporary")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    [artifact] = (folder / "root" / "RecordGen" / "examples").iterdir()
    return artifact, json.loads(done.stdout.splitlines()[-1])


def test_the_newest_version_of_the_newest_span_is_copied_whole(copied: tuple[Path, float]) -> None:
    artifact, _ = copied
    for split, count in (("train", RECORDS), ("eval", 2), ("test", 2)):
        assert ids(artifact / f"Split-{split}") == [f"2.2.{split}.{i}".encode() for i in range(count)]


def test_memory_does_not_grow_with_the_records(copied: tuple[Path, float]) -> None:
    """The stock executor grew by 354 MB for 80 MB of records and by 1,736 MB for 320 MB; this one by 65 MB."""
    _, grown = copied
    assert grown < 120


def test_tfx_packs_no_copy_of_itself_into_the_temporary_folder(copied: tuple[Path, float]) -> None:
    artifact, _ = copied
    temporary = artifact.parents[3] / "temporary"
    assert temporary.is_dir() and not list(temporary.rglob("tfx_ephemeral*"))
