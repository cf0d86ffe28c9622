"""What TFX hands to Apache Beam for each node, and workers in processes of their own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import tensorflow as tf
from google.protobuf import json_format
from tensorflow_metadata.proto.v0 import statistics_pb2
from tfx.components.statistics_gen import executor as statistics_gen
from tfx.dsl.components.base import base_beam_executor
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import beam_executor_operator, data_types
from tfx.proto.orchestration import executable_spec_pb2, pipeline_pb2
from tfx.types import artifact_utils, standard_artifacts

from flexunet.core.beam import LOCAL_BEAM_ARGS, beam_arguments, prepare_beam
from flexunet.core.config.beam import BEAM_NODES, BeamConfig, BeamRunConfig
from flexunet.core.config.whole import Config
from pipeline import dag
from pipeline.launch import compile_run


class Probe(base_beam_executor.BaseBeamExecutor):
    """What TFX makes of an executor spec: keeps the arguments that its Beam pipeline would be made with."""

    received: ClassVar[list[str]] = []

    def Do(self, *given: Any) -> None:
        Probe.received = list(self._beam_pipeline_args)


def received_by(ir: Any, node: str, folder: Path) -> list[str]:
    """Through TFX's own operator; its labels, which come last, are left out."""
    spec = executable_spec_pb2.BeamExecutableSpec()
    spec.CopyFrom(runner_utils.extract_executor_spec(runner_utils.extract_local_deployment_config(ir), node))
    operator = beam_executor_operator.BeamExecutorOperator(spec)
    operator._executor_cls = Probe
    operator.run_executor(data_types.ExecutionInfo(tmp_dir=str(folder), execution_output_uri=str(folder / "output")))
    return Probe.received[: Probe.received.index("--labels")]


def compiled(config: Config, beam_args: tuple[str, ...] = ()) -> Any:
    return compile_run(dag.create_pipeline(config, dag.Paths("/d", "/r"), None, beam_args, lambda _: ""), "r")


def test_each_node_gets_what_the_section_says_and_then_what_the_command_line_says(
    tmp_path: Path, make_config: Callable[..., Config]
) -> None:
    flink = {"runner": "flink", "endpoint": "jobs:8099", "options": ["--max_parallelism=64"]}
    config = make_config(beam={"parallelism": 2, "nodes": {"Transform": flink}})
    ir = compiled(config, ("--temp_location=/scratch",))
    for node in BEAM_NODES:
        expected = [*beam_arguments(config.beam.node(node)), "--temp_location=/scratch"]
        assert received_by(ir, node, tmp_path) == expected
    assert "--job_endpoint=jobs:8099" in received_by(ir, "Transform", tmp_path)


def test_the_nodes_that_run_beam_are_those_that_the_section_names(make_config: Callable[..., Config]) -> None:
    deployment = pipeline_pb2.IntermediateDeploymentConfig()
    compiled(make_config()).deployment_config.Unpack(deployment)
    kind = executable_spec_pb2.BeamExecutableSpec.DESCRIPTOR
    assert {name for name, spec in deployment.executor_specs.items() if spec.Is(kind)} == {*BEAM_NODES}


def test_beams_boot_finds_beam_in_the_environment() -> None:
    """As it asks in a worker's container, whose environment comes from the same lock."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "show", "apache-beam"], capture_output=True, text=True, check=False
    )
    assert "Name: apache-beam" in done.stdout, done.stderr


def statistics(folder: Path, arguments: list[str]) -> Any:
    """Of ten records, by TFX's executor, whose functions of TensorFlow Data Validation a worker unpickles."""
    examples, schema = standard_artifacts.Examples(), standard_artifacts.Schema()
    output = standard_artifacts.ExampleStatistics()
    examples.uri, schema.uri, output.uri = (str(folder / name) for name in ("examples", "schema", "statistics"))
    examples.split_names = artifact_utils.encode_split_names(["train"])
    (folder / "examples" / "Split-train").mkdir(parents=True)
    (folder / "schema").mkdir()
    with tf.io.TFRecordWriter(f"{examples.uri}/Split-train/records.tfrecord.gz", "GZIP") as writer:
        for number in range(10):
            value = tf.train.Feature(int64_list=tf.train.Int64List(value=[number]))
            writer.write(tf.train.Example(features=tf.train.Features(feature={"n": value})).SerializeToString())
    (folder / "schema" / "schema.pbtxt").write_text('feature { name: "n" type: INT }')
    kind = base_beam_executor.BaseBeamExecutor.Context
    context = kind(beam_pipeline_args=[*arguments], tmp_dir=str(folder), unique_id="1")
    inputs = {"examples": [examples], "schema": [schema]}
    statistics_gen.Executor(context).Do(inputs, {"statistics": [output]}, {"exclude_splits": "[]"})
    found = statistics_pb2.DatasetFeatureStatisticsList()
    found.ParseFromString((folder / "statistics" / "Split-train" / "FeatureStats.pb").read_bytes())
    return json_format.MessageToDict(found)


def test_a_worker_in_a_process_of_its_own_unpickles_what_the_nodes_give_it(tmp_path: Path) -> None:
    prepare_beam(BeamConfig(parallelism=2))
    # One worker: each takes ten seconds to import TFX.
    apart = [*beam_arguments(BeamRunConfig(parallelism=2)), "--direct_num_workers=1"]
    assert "--direct_running_mode=multi_processing" in apart
    assert statistics(tmp_path / "apart", apart) == statistics(tmp_path / "inside", list(LOCAL_BEAM_ARGS))
