"""The data steps where `[beam]` sends them: the same records, statistics and scores as in one process.

Once to processes of this machine, and once to Beam's Prism, a portable runner, whose workers are started by Beam's boot
as in a container and share with the driver the folders of the data and nothing else. Prism needs Go to build both
programs, which takes two minutes once.
"""

import importlib.metadata
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from go_programs import CACHE, go
from google.protobuf import json_format
from ports import free_port, listens
from tensorflow_metadata.proto.v0 import statistics_pb2
from tfx.orchestration import metadata
from waiting import wait_until

from flexunet.core.beam import prepare_beam
from flexunet.core.config.beam import BEAM_NODES, BeamConfig
from flexunet.core.config.whole import Config
from flexunet.dataset.ingest import ingest
from flexunet.history.database import sqlite_connection
from pipeline import dag
from pipeline.launch import NodeResult, compile_run, run_node
from pipeline.measure import measure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

BEAM = f"v{importlib.metadata.version('apache-beam')}"
PROGRAMS = {"prism": "go/cmd/prism", "container": "python/container"}
BINARIES = CACHE / f"beam-{BEAM}"


@pytest.fixture(scope="module")
def programs() -> Path:
    """The folder of `prism` and of `container`, as Beam's repository calls its boot."""
    for name, package in PROGRAMS.items():
        if not (BINARIES / name).is_file():
            go("install", f"github.com/apache/beam/sdks/v2/{package}@{BEAM}", GOBIN=str(BINARIES))
    return BINARIES


@pytest.fixture(scope="module", params=["processes", pytest.param("prism", marks=pytest.mark.downloads)])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BeamConfig]:
    """The section, and behind it what it names."""
    if request.param == "processes":
        yield BeamConfig(parallelism=2)
    else:
        with running_prism(request.getfixturevalue("programs"), tmp_path_factory.mktemp("prism")) as config:
            yield config


@contextmanager
def running_prism(programs: Path, scratch: Path) -> Iterator[BeamConfig]:
    """Prism and a pool of workers."""
    port, pool_port = free_port(), free_port()
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        # As in kubeflow/Dockerfile's target `beam`.
        "RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT": "1",
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
    }
    # As `boot --worker_pool` starts it. Prism's own way to start a process puts quotation marks into its id.
    pool = ["-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={pool_port}"]
    commands = [
        [str(programs / "prism"), f"--job_port={port}", "--serve_http=false"],
        [sys.executable, *pool, f"--container_executable={programs / 'container'}"],
    ]
    with (scratch / "log").open("w") as log:
        processes = [
            subprocess.Popen(command, env=environment, cwd=scratch, stdout=log, stderr=log) for command in commands
        ]
    # Prism ends with a panic where the pool does not answer.
    wait_until(lambda: listens(port) and listens(pool_port), lambda: any(p.poll() is not None for p in processes))
    yield BeamConfig(runner="portable", endpoint=f"localhost:{port}", worker_pool=f"localhost:{pool_port}")
    for process in processes:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def configs(make_config: Callable[..., Config], engine: BeamConfig) -> dict[str, Config]:
    """The same but for where Beam runs."""
    small = make_config(
        image={"height": 32, "width": 32},
        model={"num_layers": 2, "base_filters": 8, "base_kernel": 3},
        train={"epochs": 1, "batch_size": 4},
    )
    return {"here": small, "there": small.model_copy(update={"beam": engine})}


@pytest.fixture(scope="module")
def data(
    configs: dict[str, Config], write_colorful_pairs: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Records of the same photos, written here and by the engine's workers."""
    folder = tmp_path_factory.mktemp("data")
    write_colorful_pairs(folder / "photos", 60)
    for name, config in configs.items():
        ingest(folder / "photos", folder / name, config)
    return {name: folder / name for name in configs}


def run_steps(config: Config, data: Path, root: Path, last: str) -> dict[str, NodeResult]:
    """Every node up to `last`, as the local runner starts them."""
    root.mkdir()
    prepare_beam(config.beam, nodes=BEAM_NODES)
    connection = sqlite_connection(root / "metadata.db")
    pipeline = dag.create_pipeline(config, dag.Paths(str(data), str(root)), connection)
    ir, database = compile_run(pipeline, str(time.monotonic())), metadata.Metadata(connection)
    results: dict[str, NodeResult] = {}
    for node in (node.pipeline_node for node in ir.nodes):
        results[node.node_info.id] = run_node(ir, node, database)
        if node.node_info.id == last:
            return results
    raise AssertionError(f"no node {last}")


@pytest.fixture(scope="module")
def results(
    configs: dict[str, Config], data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, NodeResult]]:
    folder = tmp_path_factory.mktemp("runs")
    here = run_steps(configs["here"], data["here"], folder / "here", "Trainer")
    return {"here": here, "there": run_steps(configs["there"], data["here"], folder / "there", "Transform")}


def records(folder: Path) -> Counter[bytes]:
    """As a multiset: an engine writes other files, in another order. Features of an example have no order either."""
    files = [str(path) for path in sorted(folder.rglob("*.gz"))]
    assert files
    parsed = (tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset(files, compression_type="GZIP"))
    return Counter(example.SerializeToString(deterministic=True) for example in parsed)


def test_ingest_writes_the_same_records(data: dict[str, Path]) -> None:
    for split in ("train", "eval", "test"):
        here, there = (records(folder / "span-1" / "version-1" / split) for folder in data.values())
        assert sum(here.values()) and there == here


@pytest.mark.parametrize(("node", "output"), [("RecordGen", "examples"), ("Transform", "transformed_examples")])
def test_a_node_writes_the_same_records(results: dict[str, dict[str, NodeResult]], node: str, output: str) -> None:
    here, there = (records(Path(found[node].outputs[output])) for found in results.values())
    assert sum(here.values()) and there == here


def test_statistics_are_the_same(results: dict[str, dict[str, NodeResult]]) -> None:
    def read(found: dict[str, NodeResult], split: str) -> Any:
        path = Path(found["StatisticsGen"].outputs["statistics"]) / f"Split-{split}" / "FeatureStats.pb"
        return json_format.MessageToDict(statistics_pb2.DatasetFeatureStatisticsList.FromString(path.read_bytes()))

    for split in ("train", "eval", "test"):
        here, there = (sorted_by_name(read(found, split)) for found in results.values())
        assert there == here


def sorted_by_name(statistics: Any) -> Any:
    for dataset in statistics["datasets"]:
        dataset["features"].sort(key=lambda feature: json.dumps(feature["path"]))
    return statistics


def test_masks_are_found_the_same(results: dict[str, dict[str, NodeResult]]) -> None:
    def read(found: dict[str, NodeResult]) -> dict[str, Any]:
        folder = Path(found["MaskValidator"].outputs["validation"])
        return {path.name: json.loads(path.read_text()) for path in folder.rglob("*.json")}

    here, there = (read(found) for found in results.values())
    assert here and there == here


def test_scores_agree_to_a_billionth(
    configs: dict[str, Config], data: dict[str, Path], results: dict[str, dict[str, NodeResult]]
) -> None:
    model = Path(results["here"]["Trainer"].outputs["model"]) / "Format-Serving"
    here, there = (measure(model, data["here"], config)[0] for config in configs.values())
    numbers = {key: value for key, value in here.items() if isinstance(value, float)}
    assert len(numbers) > 4
    assert {key: there[key] for key in numbers} == pytest.approx(numbers, abs=1e-9)
    assert there["classes"] == {name: pytest.approx(found, abs=1e-9) for name, found in here["classes"].items()}
