"""Records: shuffled shards of bounded size, the same bytes on any runner, and nothing half-written after SIGKILL."""

import json
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
import tensorflow as tf
from apache_beam.coders import BytesCoder
from apache_beam.io.filesystem import CompressionTypes
from steel import CLASSES, COLORS

from flexunet.core import features
from flexunet.core.config.beam import BeamConfig
from flexunet.core.config.load import config_from
from flexunet.core.config.whole import Config
from flexunet.dataset import parallel, records, shards
from flexunet.dataset.assignment import Row
from flexunet.dataset.commit import settle
from flexunet.dataset.examine import BadPair, examine
from flexunet.dataset.layouts.detect import find_layout
from flexunet.dataset.parallel import Workers
from flexunet.dataset.records import write_version
from flexunet.dataset.shards import plan_shards, write_shard
from flexunet.dataset.synthetic import write_surfaces

CONFIG: Config = config_from({"classes": CLASSES}, "test")
COUNT, SIZE = 20, 48
SMALL = 8_000


def nothing() -> None:
    pass


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Rows of 20 surfaces: 14 train, 3 eval, 3 test."""
    source = tmp_path_factory.mktemp("source")
    write_surfaces(source, COUNT, SIZE, COLORS, seed=5)
    splits = ["train"] * 14 + ["eval"] * 3 + ["test"] * 3
    facts = [examine(pair, CONFIG) for pair in find_layout(source).pairs]
    return [Row(f, f.pair.id, split) for f, split in zip(facts, splits, strict=True)]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", SMALL)


def contents(directory: Path) -> dict[str, bytes]:
    files = (p for p in directory.rglob("*") if p.is_file() and p.name != ".lock")
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def ids(file: Path) -> list[str]:
    raw = tf.data.TFRecordDataset(str(file), "GZIP").as_numpy_iterator()
    return [tf.train.Example.FromString(r).features.feature["image/id"].bytes_list.value[0].decode() for r in raw]


# Shards.


@pytest.mark.usefixtures("small_shards")
def test_shards_are_bounded_and_hold_every_record_once(rows: list[Row], tmp_path: Path):
    write_version(tmp_path / "version-1", rows, CONFIG, Workers(), nothing)
    size_of = {
        row.facts.pair.id: sum(p.stat().st_size for p in (row.facts.pair.image, row.facts.pair.mask)) for row in rows
    }
    for split in features.SPLITS:
        files = sorted((tmp_path / "version-1" / split).iterdir())
        assert [file.name for file in files] == [f"records-{i:05d}.tfrecord.gz" for i in range(len(files))]
        members = [ids(file) for file in files]
        assert sorted(chain(*members)) == [row.facts.pair.id for row in rows if row.split == split]
        sizes = [sum(size_of[i] for i in shard) for shard in members]
        assert max(sizes) <= SMALL
        assert max(file.stat().st_size for file in files) <= 1.2 * SMALL
        # No shard has room for the first of the next: they are as few as the order allows.
        assert all(size + size_of[after[0]] > SMALL for size, after in zip(sizes, members[1:], strict=False))
    assert len(list((tmp_path / "version-1/train").iterdir())) > 3


def test_an_image_larger_than_a_shard_gets_one_of_its_own(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    assert [len(shard.entries) for shard in plan_shards(tmp_path, rows, 0)] == [1] * COUNT


def test_records_are_shuffled_across_shards_by_the_seed(rows: list[Row], tmp_path: Path):
    orders = [
        [e.facts.pair.id for shard in plan_shards(tmp_path, rows, seed) for e in shard.entries] for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])
    assert orders[0] != sorted(orders[0])


def test_a_plan_is_small(rows: list[Row], tmp_path: Path):
    (plan,) = [shard for shard in plan_shards(tmp_path, rows, 0) if shard.file.parent.name == "train"]
    assert len(pickle.dumps(plan)) < 600 * len(plan.entries)


# The same bytes.


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize(
    "beam_args",
    [
        ["--runner=FnApiRunner", "--direct_running_mode=in_memory", "--direct_num_workers=1"],
        ["--runner=FnApiRunner", "--direct_running_mode=multi_threading", "--direct_num_workers=3"],
        ["--runner=BundleBasedDirectRunner"],
    ],
    ids=lambda args: args[-1],
)
def test_any_runner_and_order_of_rows_gives_the_same_bytes(rows: list[Row], tmp_path: Path, beam_args: list[str]):
    done = []
    write_version(tmp_path / "expected", rows, CONFIG, Workers(), nothing)
    config = CONFIG.model_copy(update={"beam": BeamConfig(options=tuple(beam_args))})
    write_version(tmp_path / "version-1", rows[::-1], config, Workers(), lambda: done.append(1))
    assert contents(tmp_path / "version-1") == contents(tmp_path / "expected")
    assert len(done) == COUNT


@pytest.mark.usefixtures("small_shards")
def test_several_processes_give_the_same_bytes(rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_version(tmp_path / "alone", rows, CONFIG, Workers(), nothing)
    monkeypatch.setattr(parallel, "_WORTH_BYTES", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    done = []
    with Workers() as workers:
        workers.start_for([row.facts.pair for row in rows])
        write_version(tmp_path / "together", rows, CONFIG, workers, lambda: done.append(1))
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")
    assert len(done) == COUNT
    for file in (tmp_path / "alone").rglob("*.gz"):
        assert raw(file) == [*tf.data.TFRecordDataset(str(file), "GZIP").as_numpy_iterator()]


def raw(file: Path) -> list[bytes]:
    """As Beam reads records, with their checksums checked."""
    source = beam.io.tfrecordio._TFRecordSource(str(file), BytesCoder(), CompressionTypes.AUTO, validate=False)
    return [*source.read(source.get_range_tracker(None, None))]


def test_a_second_attempt_at_a_shard_changes_nothing(rows: list[Row], tmp_path: Path):
    (tmp_path / "test").mkdir()
    shard = list(plan_shards(tmp_path, rows, 0))[-1]
    assert write_shard(pickle.dumps(shard), CONFIG) == len(shard.entries) == 3
    before = contents(tmp_path)
    assert list(before) == ["test/records-00000.tfrecord.gz"]
    assert write_shard(pickle.dumps(shard), CONFIG) == len(shard.entries) == 3
    assert contents(tmp_path) == before


# Errors.


def test_a_file_that_changed_since_it_was_checked_is_named_and_leaves_nothing(rows: list[Row], tmp_path: Path):
    write_surfaces(tmp_path / "source", COUNT, SIZE, COLORS, seed=5)
    own = [
        Row(examine(p, CONFIG), p.id, row.split)
        for p, row in zip(find_layout(tmp_path / "source").pairs, rows, strict=True)
    ]
    broken = own[7].facts.pair.image
    broken.write_bytes(broken.read_bytes()[:300])
    with pytest.raises(BadPair, match=r"steel-00008\.png"):
        write_version(tmp_path / "out/version-1", own, CONFIG, Workers(), nothing)
    assert list((tmp_path / "out").iterdir()) == []


def test_shards_that_no_worker_wrote_are_missed(rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(records, "write_shard", lambda *given, **settings: 0)
    with pytest.raises(FileNotFoundError, match=r"records-00000\.tfrecord\.gz and 2 others of 3 shards"):
        write_version(tmp_path / "version-1", rows, CONFIG, Workers(), nothing)
    assert list(tmp_path.iterdir()) == []


# What a kill leaves.


def write_manifest(path: Path, *versions: tuple[int, int]) -> None:
    path.write_text(json.dumps({"spans": [{"span": span, "version": version} for span, version in versions]}))


def staged_without_its_version(out: Path) -> None:
    write_manifest(out / ".dataset.json.incomplete", (1, 1), (2, 1))


def staged_half(out: Path) -> None:
    (out / ".dataset.json.incomplete").write_text('{"spans": [{"span": 1, "ver')


def versions_half(out: Path) -> None:
    for version in ("span-1/.version-2.incomplete", "span-2/.version-1.incomplete"):
        (out / version / "train").mkdir(parents=True)
        (out / version / "train/.records-00000.tfrecord.gz.0a").write_bytes(b"half")


@pytest.mark.parametrize("leave", [staged_without_its_version, staged_half, versions_half])
def test_what_never_took_effect_is_cleared(tmp_path: Path, leave: Callable[[Path], None]):
    (tmp_path / "span-1/version-1").mkdir(parents=True)
    write_manifest(tmp_path / "dataset.json", (1, 1))
    before = contents(tmp_path)
    leave(tmp_path)
    assert contents(tmp_path) != before
    settle(tmp_path)
    assert contents(tmp_path) == before
    assert list(tmp_path.rglob("*.incomplete")) == []


def test_what_took_effect_is_finished(tmp_path: Path):
    for version in ("span-1/version-1", "span-2/version-1"):
        (tmp_path / version).mkdir(parents=True)
    write_manifest(tmp_path / "dataset.json", (1, 1))
    write_manifest(tmp_path / ".dataset.json.incomplete", (1, 1), (2, 1))
    settle(tmp_path)
    assert json.loads((tmp_path / "dataset.json").read_text())["spans"][1] == {"span": 2, "version": 1}
    assert list(tmp_path.rglob("*.incomplete")) == []


# SIGKILL. One process imports TensorFlow and Beam, runs nothing, and forks every ingest: 1 import instead of 27.
KILLER = """
import json, os, pathlib, shutil, signal, sys, time, traceback
import apache_beam, tensorflow
import flexunet.dataset.records
from flexunet.dataset.ingest import ingest
from flexunet.core.config.load import config_from

task = json.load(sys.stdin)
config = config_from({"classes": task["classes"]}, "test")

def child(source, out, die_between_renames=False):
    pid = os.fork()
    if pid:
        return pid
    if die_between_renames:
        pathlib.Path.replace = lambda path, to: (
            os.kill(os.getpid(), signal.SIGKILL) if path.name == ".dataset.json.incomplete" else os.replace(path, to)
        )
    try:
        ingest(pathlib.Path(source), pathlib.Path(out), config)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)

def finished(pid):
    return os.waitpid(pid, 0)[1]

def undisturbed(source, out):
    start = time.monotonic()
    assert finished(child(source, out)) == 0
    return time.monotonic() - start

seconds = {}
for name, (source, start, out) in task["undisturbed"].items():
    if start:
        shutil.copytree(start, out)
    seconds[name] = undisturbed(source, out)
killed = []
for name, moment, out in task["killed"]:
    source, start, _ = task["undisturbed"][name]
    if start:
        shutil.copytree(start, out)
    pid = child(source, out, moment is None)
    if moment is not None:
        time.sleep(moment * seconds[name])
        os.kill(pid, signal.SIGKILL)
    killed.append(finished(pid) == signal.SIGKILL)
    pathlib.Path(out).mkdir(exist_ok=True)
    shutil.copytree(out, out + "-killed")
    assert finished(child(source, out)) == 0
json.dump({"killed": killed, "seconds": seconds}, sys.stdout)
"""


def run_killer(task: dict[str, Any]) -> list[bool]:
    """Whether each child was still running when its moment came."""
    done = subprocess.run([sys.executable, "-c", KILLER], input=json.dumps(task), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)["killed"]


def assert_old_or_new(left: dict[str, bytes], old: dict[str, bytes], new: dict[str, bytes]) -> None:
    """`left` lies there after a kill: what readers see is the old version alone, or the whole new one beside it."""
    visible = {path: data for path, data in left.items() if ".incomplete" not in path}
    about = {name: visible.pop(name, None) for name in ("dataset.html", "dataset.json")}
    assert all(data in (old.get(name), new[name]) for name, data in about.items())
    assert visible in ({p: d for p, d in files.items() if p not in about} for files in (old, new))
    if new["dataset.json"] == about["dataset.json"]:
        assert visible.keys() | about.keys() == new.keys()


@pytest.mark.slow
def test_killed_at_any_moment_a_rerun_yields_the_bytes_of_an_undisturbed_run(tmp_path: Path):
    """Ten random moments, one in each tenth of the run, and one between the two renames; with and without old data."""
    few, many = tmp_path / "few", tmp_path / "many"
    write_surfaces(few, 30, SIZE, COLORS, seed=5)
    write_surfaces(many, 60, SIZE, COLORS, seed=5)
    generator = random.Random(3)
    moments = [(["fresh", "old"][i % 2], (i + generator.random()) / 10) for i in range(10)]
    runs = [(n, m, str(tmp_path / f"out-{i}")) for i, (n, m) in enumerate([*moments, ("fresh", None), ("old", None)])]
    expected = {"first": tmp_path / "first", "fresh": tmp_path / "fresh", "old": tmp_path / "old"}
    undisturbed = {
        "first": (few, None, expected["first"]),
        "fresh": (many, None, expected["fresh"]),
        "old": (many, expected["first"], expected["old"]),
    }
    tasks = {name: [str(path) if path else None for path in paths] for name, paths in undisturbed.items()}
    killed = run_killer({"classes": CLASSES, "undisturbed": tasks, "killed": runs})
    assert sum(killed) >= 7
    assert list(tmp_path.glob("out-*-killed/span-1/.version-*.incomplete"))
    for name, _, out in runs:
        assert contents(Path(out)) == contents(expected[name])
        old = contents(expected["first"]) if name == "old" else {}
        assert_old_or_new(contents(Path(f"{out}-killed")), old, contents(expected[name]))
