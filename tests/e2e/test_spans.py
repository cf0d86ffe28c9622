"""Data that arrive span by span, through the nodes that read them, wired as in the pipeline."""

import json
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance
from tfx.orchestration import metadata

from flexunet.core.beam import LOCAL_BEAM_ARGS
from flexunet.core.config.whole import Config
from flexunet.dataset.ingest import ingest
from flexunet.dataset.manifest import read_manifest
from pipeline import dag
from pipeline.launch import compile_run, run_node

NODES = {
    "RecordGen",
    "RecordSchema",
    "StatisticsGen",
    "ExampleValidator",
    "PreviousSpanResolver",
    "DriftReporter",
    "MaskValidator",
}


class Records:
    """Runs the nodes before Transform and looks at what they wrote last."""

    def __init__(self, folder: Path, make_config: Callable[..., Config]) -> None:
        self.data, self.root, self.make_config = folder / "data", folder / "root", make_config

    def ingest(self, source: Path, span: int) -> None:
        ingest(source, self.data, self.make_config(), span=span)

    def run(self, spans: int | str, newest: int | None = None, nodes: Collection[str] = NODES) -> None:
        paths = dag.Paths(str(self.data), str(self.root), newest)
        self.root.mkdir(exist_ok=True)
        connection = metadata.sqlite_metadata_connection_config(str(paths.runs.metadata))
        config = self.make_config(dataset={"spans": spans})
        ir = compile_run(dag.create_pipeline(config, paths, connection, LOCAL_BEAM_ARGS), str(time.monotonic()))
        for node in (node.pipeline_node for node in ir.nodes):
            if node.node_info.id in nodes:
                run_node(ir, node, metadata.Metadata(connection))

    def newest(self, node: str, output: str) -> Path:
        return max((self.root / node / output).iterdir(), key=lambda path: int(path.name))

    def ids(self) -> set[str]:
        files = [str(path) for path in self.newest("RecordGen", "examples").glob("Split-*/*.gz")]
        examples = [tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset(files, "GZIP")]
        return {e.features.feature["image/id"].bytes_list.value[0].decode() for e in examples}

    def drift(self) -> dict[str, Any]:
        return json.loads((self.newest("DriftReporter", "drift") / "drift.json").read_text())

    def validation(self) -> dict[str, Any]:
        return json.loads((self.newest("MaskValidator", "validation") / "validation.json").read_text())


def moved(drift: dict[str, Any]) -> set[str]:
    return {feature["feature"] for feature in drift["features"] if feature["moved"]}


@pytest.fixture(scope="module")
def records(
    tmp_path_factory: pytest.TempPathFactory, make_config: Callable[..., Config], write_colorful_pairs: Any
) -> Records:
    folder = tmp_path_factory.mktemp("spans")
    for name, seed in (("first", 1), ("second", 2)):
        write_colorful_pairs(folder / name, 40, seed=seed)
    for path in (folder / "second" / "images").iterdir():
        ImageEnhance.Brightness(Image.open(path)).enhance(0.3).save(path)
    return Records(folder, make_config)


def test_the_first_span_has_none_before_it(records: Records) -> None:
    records.ingest(records.data.parent / "first", 1)
    records.run(spans=1)
    assert records.ids() == {f"{index:03d}" for index in range(40)}
    assert records.drift() == {"compared_with_spans": [], "measure": "Kolmogorov-Smirnov", "features": []}


def test_the_newest_span_is_read_and_what_moved_is_named(records: Records) -> None:
    records.ingest(records.data.parent / "second", 2)
    records.run(spans=1)
    assert records.ids() == {f"span-2/{index:03d}" for index in range(40)}
    drift = records.drift()
    assert drift["compared_with_spans"] == [1]
    distances = {feature["feature"]: feature["distance"] for feature in drift["features"]}
    assert max(distances, key=lambda name: distances[name]) == "brightness"
    assert "brightness" in moved(drift)
    assert len(drift["features"]) == 9


def test_an_earlier_span_can_be_named_as_the_newest_to_read(records: Records) -> None:
    records.run(spans=2, newest=1)
    assert records.ids() == {f"{index:03d}" for index in range(40)}
    assert records.validation()["agrees_with_manifest"]


def test_a_window_of_spans_is_read_together_and_agrees_with_the_manifest(records: Records) -> None:
    records.run(spans="all")
    assert len(records.ids()) == 80
    # The newest span alone is compared, though both are read: half of them would hide what moved.
    assert records.drift()["compared_with_spans"] == [1] and "brightness" in moved(records.drift())
    assert records.validation()["agrees_with_manifest"]
    totals = {split: facts["images"] for split, facts in records.validation()["splits"].items()}
    spans = read_manifest(records.data)["spans"]
    assert totals == {split: sum(span["splits"][split]["images"] for span in spans) for split in totals}


def test_a_new_version_of_an_earlier_span_is_read(records: Records, write_colorful_pairs: Any) -> None:
    """Also by a window that is wider than the data."""
    write_colorful_pairs(records.data.parent / "first", 41, seed=1)
    records.ingest(records.data.parent / "first", 1)
    records.run(spans=9, nodes={"RecordGen"})
    assert "040" in records.ids() and len(records.ids()) == 81
