"""What `[beam]` makes of an engine, and what is refused before a pipeline is given to one."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from flexunet.core import beam
from flexunet.core.config.beam import BeamConfig, BeamRunConfig
from flexunet.core.config.load import ConfigError
from flexunet.core.config.whole import Config
from flexunet.core.errors import UserError


def test_in_one_process_nothing_is_fetched_and_nothing_packed() -> None:
    arguments = beam.beam_arguments(BeamRunConfig())
    assert arguments == list(beam.LOCAL_BEAM_ARGS)
    assert "--runner=FnApiRunner" in arguments and "--direct_running_mode=in_memory" in arguments


def test_processes_of_this_machine_import_tfx_first() -> None:
    arguments = beam.beam_arguments(BeamRunConfig(parallelism=3))
    assert {"--direct_running_mode=multi_processing", "--direct_num_workers=3", "--beam_plugin=tfx"} <= {*arguments}


@pytest.mark.parametrize(
    ("settings", "environment"),
    [
        ({}, ["--environment_type=EXTERNAL", "--environment_config=localhost:50000"]),
        (
            {"environment": "process"},
            ["--environment_type=PROCESS", '--environment_config={"command": "/opt/apache/beam/boot"}'],
        ),
        (
            {"environment": "docker", "workers_image": "r/flexunet:1-beam"},
            ["--environment_type=DOCKER", "--environment_config=r/flexunet:1-beam"],
        ),
    ],
)
def test_an_engine_is_reached_through_its_job_server(settings: dict[str, Any], environment: list[str]) -> None:
    given = BeamRunConfig(runner="flink", endpoint="flink-jobserver:8099", parallelism=4, **settings)
    arguments = beam.beam_arguments(given)
    assert arguments[:2] == ["--runner=PortableRunner", "--job_endpoint=flink-jobserver:8099"]
    assert {*environment, "--parallelism=4", "--environment_cache_millis=120000", "--beam_plugin=tfx"} <= {*arguments}
    # It would also end a job that takes longer.
    assert "--job_server_timeout=604800" in arguments


@pytest.mark.parametrize("environment", ["external", "process", "docker"])
def test_nothing_is_sent_to_the_workers_of_an_engine(environment: str) -> None:
    """A job server keeps what it is sent on its own disk: task managers elsewhere could not give it to workers."""
    from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions
    from apache_beam.transforms.environments import Environment

    more = ("--experiments=use_deprecated_read",)
    given = BeamRunConfig(
        runner="flink", endpoint="h:1", environment=environment, workers_image="r/flexunet:1-beam", options=more
    )
    options = PipelineOptions(beam.beam_arguments(given))
    assert Environment.from_options(options.view_as(PortableOptions)).artifacts() == []


def test_dataflow_takes_our_image() -> None:
    settings = BeamRunConfig(runner="dataflow", workers_image="r/flexunet:1-beam", options=("--project=p",))
    arguments = beam.beam_arguments(settings)
    assert {"--runner=DataflowRunner", "--sdk_container_image=r/flexunet:1-beam"} <= {*arguments}
    assert arguments[-1] == "--project=p"


def test_tfx_packs_nothing_for_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    from tfx.utils import dependency_utils

    monkeypatch.setattr(dependency_utils, "build_ephemeral_package", lambda: pytest.fail("packed"))
    for settings in (BeamRunConfig(), BeamRunConfig(runner="portable", endpoint="h:1"), BeamRunConfig(parallelism=2)):
        arguments = beam.beam_arguments(settings)
        assert dependency_utils.make_beam_dependency_flags(arguments) == arguments


def test_a_node_has_its_own_keys_and_else_those_of_the_section(make_config: Callable[..., Config]) -> None:
    section = {"runner": "flink", "endpoint": "h:1", "nodes": {"Transform": {"parallelism": 8}}}
    config = make_config(beam=section).beam
    assert config.node("Transform") == BeamRunConfig(runner="flink", endpoint="h:1", parallelism=8)
    assert config.node("Evaluator") == config.node("") == BeamRunConfig(runner="flink", endpoint="h:1")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"runner": "flnk"}, r"beam\.runner: got 'flnk'"),
        ({"runner": "flink"}, r"beam: endpoint is missing for runner = 'flink', expected its job server"),
        ({"endpoint": "h:1"}, r"beam: endpoint is 'h:1' with runner = 'local', expected none"),
        ({"runner": "flink", "endpoint": "http://h:1"}, r"beam\.endpoint: got 'http://h:1'"),
        ({"runner": "dataflow"}, r"beam: workers_image is missing"),
        ({"options": ["streaming"]}, r"beam: options holds 'streaming', expected --name=value"),
        ({"nodes": {"Trainer": {}}}, r"beam: nodes\.Trainer: no node that runs Beam, expected one of RecordGen, "),
        ({"nodes": {"Transform": {"runner": "spark"}}}, r"beam: nodes\.Transform\.endpoint is missing"),
    ],
)
def test_a_mistake_in_the_section_is_one_line(
    make_config: Callable[..., Config], section: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        make_config(beam=section)
    assert len(str(raised.value).splitlines()) == 1


def test_an_option_that_beam_does_not_know_is_refused_with_a_suggestion() -> None:
    config = BeamConfig(options=("--direct_num_workrs=2", "--temp_location=/tmp/x"))
    message = r"^--direct_num_workrs: Apache Beam has no such option, .*; did you mean --direct_num_workers\?$"
    with pytest.raises(UserError, match=message):
        beam.prepare_beam(config)
    with pytest.raises(UserError, match=r"^--runnr: .*; did you mean --runner\?$"):
        beam.prepare_beam(BeamConfig(), ["--runnr=FlinkRunner"])
    beam.prepare_beam(BeamConfig(options=("--no_use_public_ips", "--experiments=x")))


def test_a_job_server_that_is_down_is_one_line_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert beam._SECONDS_FOR_JOB_SERVER < 15
    monkeypatch.setattr(beam, "_SECONDS_FOR_JOB_SERVER", 0.5)
    config, started = BeamConfig(runner="flink", endpoint="127.0.0.1:9"), time.monotonic()
    with pytest.raises(UserError, match=r"^beam\.endpoint: no job server answers at 127\.0\.0\.1:9 within") as raised:
        beam.prepare_beam(config)
    assert time.monotonic() - started < 5 and len(str(raised.value).splitlines()) == 1


def test_what_only_the_engine_knows_is_taken_from_its_job_server() -> None:
    from apache_beam.runners.portability.local_job_service import LocalJobServicer

    server = LocalJobServicer()
    endpoint = f"localhost:{server.start_grpc_server(0)}"
    try:
        config = BeamConfig(runner="portable", endpoint=endpoint, options=("--checkpointing_intervall=1",))
        with pytest.raises(UserError, match="no such option"):
            beam.prepare_beam(config)
        beam.prepare_beam(config.model_copy(update={"options": ("--parallelism=2",)}))
    finally:
        server.stop()


def test_the_repair_of_an_engines_error_is_told() -> None:
    error = "java.io.IOException: Insufficient number of network buffers: required 9, but only 3 available"
    assert "taskmanager.memory.network.max" in beam.repair_of(error)
    assert beam.repair_of("OutOfMemoryError") == ""
