"""What the first step of a run refuses, each in one line and before anything is written."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

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
        changes = given.pop("config", {})
        config = make_config(**changes, kubeflow={"mount_path": str(mount), **given.pop("kubeflow", {})})
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
        ({"overrides": ["kubeflow={root='x'}"]}, "kubeflow={root='x'} is compiled into the package"),
        ({"overrides": ["serving.signing_key='/k.pem'"]}, "'/k.pem': who signs is compiled into the package"),
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


@pytest.mark.parametrize("override", ["serving.signing_key=''", "serving.signing_key='/mnt/k.pem'", "serving={}"])
def test_no_override_takes_the_secrets_key_away(run: Callable[..., str], override: str) -> None:
    """The model would be pushed unsigned, or signed by a key on the volume, and a package says that neither is so."""
    signed = {"config": {"serving": {"signing_key": "/var/key.pem"}}, "kubeflow": {"signing_secret": "mine"}}
    error = run(overrides=[override], **signed)
    assert "who signs is compiled into the package" in error and "kubeflow.signing_secret" in error


def test_a_volume_that_is_not_mounted_is_one_line(run: Callable[..., str], tmp_path: Path) -> None:
    error = run(mount=tmp_path / "elsewhere")
    assert error.startswith(f"{tmp_path / 'elsewhere'}: no such folder by user ")


def test_an_override_that_changes_the_nodes_needs_another_package(
    run: Callable[..., str], make_config: Callable[..., Config]
) -> None:
    error = run(overrides=["train.warm_start=true"], nodes=list(package.node_graph(make_config())))
    assert re.search(r"differ in WarmStartResolver: .*compile the package again", error)


def test_the_span_of_a_run_reaches_the_reader(make_config: Callable[..., Config]) -> None:
    def parameters(span: int | None) -> str:
        pipeline = dag.create_pipeline(make_config(), dag.Paths("/d", "/r", span), None, [], lambda _: "")
        [node] = [
            n.pipeline_node for n in compile_run(pipeline, "r").nodes if n.pipeline_node.node_info.id == "RecordGen"
        ]
        return str(node.parameters)

    assert '\\"start_span_number\\": 3' in parameters(3)
    assert "start_span_number" not in parameters(None)
