"""What the first step of a run refuses, each in one line and before anything is written."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner
from tfx.dsl.components.base import base_beam_executor
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import beam_executor_operator, data_types
from tfx.proto.orchestration import executable_spec_pb2

from flexunet.core.beam import IN_PROCESS, LOCAL_BEAM_ARGS, beam_args
from flexunet.core.config.whole import Config
from flexunet.core.errors import UserError
from flexunet.dataset.ingest import ingest
from kubeflow import package, prepare
from pipeline import dag
from pipeline.launch import compile_run


@pytest.fixture
def volume(tmp_path: Path, make_config: Callable[..., Config], write_colorful_pairs: Any) -> Path:
    folder = tmp_path / "volume"
    write_colorful_pairs(tmp_path / "photos", 20)
    ingest(tmp_path / "photos", folder / "records", make_config())
    return folder


@pytest.fixture
def run(volume: Path, make_config: Callable[..., Config]) -> Callable[..., str]:
    """`run(overrides=[...], ...)`: prepares and gives the error."""

    def prepared(mount: Path = volume, **given: Any) -> str:
        config = make_config(kubeflow={"mount_path": str(mount)})
        values = {"data": "records", "span": "0", "overrides": [], "accept-refused": "", **given}
        values["overrides"] = json.dumps(values["overrides"])
        nodes = ",".join(values.pop("nodes", ["RecordGen"]))
        options = [f"--{name}={value}" for name, value in values.items()]
        known = ["--config", config.model_dump_json(exclude_unset=True), "--nodes", nodes, "--run-id", "r"]
        with pytest.raises(UserError) as raised:
            CliRunner().invoke(prepare.main, [*known, *options], catch_exceptions=False, standalone_mode=False)
        return str(raised.value)

    return prepared


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"overrides": ["train.epoch=3"]}, "unknown key train.epoch; did you mean epochs?"),
        ({"overrides": ["train.epochs=many"]}, "train.epochs: got 'many'"),
        ({"overrides": ["epochs"]}, "expected section.key=value"),
        ({"overrides": {"train.epochs": 3}}, "expected a list such as ['train.epochs=20']"),
        ({"overrides": ["kubeflow.root=x"]}, "kubeflow.root=x is compiled into the package"),
        ({"data": "nothing"}, "not readable, expected the output of `flexunet ingest`"),
        ({"span": 7}, "no span 7, expected one of 1"),
    ],
)
def test_a_mistake_of_who_started_the_run_is_one_line(
    run: Callable[..., str], volume: Path, given: dict[str, Any], message: str
) -> None:
    error = run(**given)
    assert message in error and len(error.splitlines()) == 1
    assert [path.name for path in volume.iterdir()] == ["records"]


def test_a_volume_that_is_not_mounted_is_one_line(run: Callable[..., str], tmp_path: Path) -> None:
    error = run(mount=tmp_path / "elsewhere")
    assert error.startswith(f"{tmp_path / 'elsewhere'}: no such folder by user ")


def test_an_override_that_changes_the_nodes_needs_another_package(
    run: Callable[..., str], make_config: Callable[..., Config]
) -> None:
    error = run(overrides=["train.warm_start=true"], nodes=list(package.node_graph(make_config())))
    assert re.search(r"differ in WarmStartResolver: .*compile the package again", error)


class Probe(base_beam_executor.BaseBeamExecutor):
    """What TFX makes of an executor spec: keeps the options that its Beam pipeline would be run with."""

    received: ClassVar[list[str]] = []

    def Do(self, *given: Any) -> None:
        Probe.received = list(self._beam_pipeline_args)


def received_by(ir: Any, node: str, folder: Path) -> list[str]:
    """The arguments that reach a node's Beam pipeline, through TFX's own operator."""
    spec = executable_spec_pb2.BeamExecutableSpec()
    deployment = runner_utils.extract_local_deployment_config(ir)
    spec.CopyFrom(runner_utils.extract_executor_spec(deployment, node))
    operator = beam_executor_operator.BeamExecutorOperator(spec)
    operator._executor_cls = Probe
    operator.run_executor(data_types.ExecutionInfo(tmp_dir=str(folder), execution_output_uri=str(folder / "output")))
    return Probe.received


def test_each_node_gets_its_own_beam_arguments_after_ours(
    tmp_path: Path, make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    # TFX would pack its own source for the workers, which takes seconds; the image has it.
    monkeypatch.setattr(base_beam_executor.dependency_utils, "make_beam_dependency_flags", list)
    nodes = {"Transform": {"beam_args": ["--runner=FlinkRunner"]}, "Evaluator": {"beam_args": ["--runner=SparkRunner"]}}
    config = make_config(kubeflow={"defaults": {"beam_args": ["--direct_num_workers=4"]}, "nodes": nodes})
    ir = compile_run(dag.create_pipeline(config, dag.Paths("/d", "/r"), None, ["--runner=Ours"], lambda _: ""), "r")
    prepare.add_beam_args(ir, config)
    own = {
        "Transform": "--runner=FlinkRunner",
        "Evaluator": "--runner=SparkRunner",
        "StatisticsGen": "--direct_num_workers=4",
        "RecordGen": "--direct_num_workers=4",
    }
    found = {node: received_by(ir, node, tmp_path)[:2] for node in own}
    assert found == {node: ["--runner=Ours", argument] for node, argument in own.items()}


def test_workers_of_another_runner_are_not_told_an_image_that_is_none() -> None:
    assert beam_args([]) == list(LOCAL_BEAM_ARGS) and IN_PROCESS in beam_args(["--direct_num_workers=4"])
    for given in (["--runner=FlinkRunner"], ["--runner", "FlinkRunner"]):
        assert beam_args(given) == [*(argument for argument in LOCAL_BEAM_ARGS if argument != IN_PROCESS), *given]


def test_beam_arguments_of_a_node_without_beam_are_refused(make_config: Callable[..., Config]) -> None:
    config = make_config(kubeflow={"nodes": {"Trainer": {"beam_args": ["--runner=FlinkRunner"]}}})
    ir = compile_run(dag.create_pipeline(config, dag.Paths("/d", "/r"), None, [], lambda _: ""), "r")
    with pytest.raises(UserError, match=r"kubeflow\.nodes\.Trainer\.beam_args: Trainer does not run Beam"):
        prepare.add_beam_args(ir, config)


def test_the_span_of_a_run_reaches_the_reader(make_config: Callable[..., Config]) -> None:
    def parameters(span: int | None) -> str:
        pipeline = dag.create_pipeline(make_config(), dag.Paths("/d", "/r", span), None, [], lambda _: "")
        [node] = [
            n.pipeline_node for n in compile_run(pipeline, "r").nodes if n.pipeline_node.node_info.id == "RecordGen"
        ]
        return str(node.parameters)

    assert '\\"start_span_number\\": 3' in parameters(3)
    assert "start_span_number" not in parameters(None)
