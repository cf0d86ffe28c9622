"""Apache Beam's arguments from `[beam]`, and what can be said of them before a pipeline is given to an engine.

Beam itself drops an argument that it does not know with a line in a log, and waits five minutes for a job server.
"""

import argparse
import atexit
import difflib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flexunet.core.config.beam import WITH_JOB_SERVER, BeamConfig, BeamRunConfig
from flexunet.core.errors import UserError

if TYPE_CHECKING:
    from apache_beam.portability.api import beam_job_api_pb2_grpc

# Unless an image is named, TFX packs an sdist of itself for the workers, with pins that cannot be installed. They need
# none: they are processes of this machine or run in our image. Only `docker` and Dataflow look at the name.
_CODE_IS_THERE: Final = "--sdk_container_image={}"
_NO_IMAGE: Final = "none"
# Beam's default local runner downloads a Prism binary from GitHub; this one is inside the package.
_LOCAL: Final = ("--runner=FnApiRunner", _CODE_IS_THERE.format(_NO_IMAGE))
# In one process the nodes share the models they load.
LOCAL_BEAM_ARGS: Final = (*_LOCAL, "--direct_running_mode=in_memory", "--direct_num_workers=1")
# Workers in processes of their own unpickle functions of TensorFlow Data Validation, which imports a module that
# tfx-bsl 1.21 has no more; `import tfx` stands in for it, and must come first.
_PLUGIN: Final = "--beam_plugin=tfx"
# Else Beam sends a list of the packages that are installed here. A job server keeps what it is sent on its own disk,
# where task managers on other machines cannot read it: each worker's start would try, and tell an error.
_SENDS_NOTHING: Final = "--experiments=disable_logging_submission_environment"
# Else workers are started, and import TensorFlow, anew for each stage of a pipeline. Of jobs that follow each other all
# workers that still live have their gigabyte. Flink counts it only of Beam's classes in its own lib.
_WORKERS_LIVE_MILLISECONDS: Final = 120_000
_SECONDS_FOR_JOB_SERVER: Final = 10.0
# Beam's own time-out also ends the stream of a running job's states: on Prism, a job of more than 300 s failed.
_LONGEST_JOB_SECONDS: Final = 7 * 24 * 3600
_OPTIONS_FILE: Final = "PIPELINE_OPTIONS_FILE"
_NO_BUFFERS: Final = "insufficient number of network buffers"


def beam_arguments(settings: BeamRunConfig) -> list[str]:
    """What Beam 2.77 is told for an engine, `options` last, so that they count."""
    if settings.runner == "local":
        return [*_local(settings.parallelism), *settings.options]
    if settings.runner == "dataflow":
        image = _CODE_IS_THERE.format(settings.workers_image)
        own = ["--runner=DataflowRunner", image, "--sdk_location=container", f"--num_workers={settings.parallelism}"]
        return [*own, _PLUGIN, *settings.options]
    return [
        "--runner=PortableRunner",
        f"--job_endpoint={settings.endpoint}",
        _CODE_IS_THERE.format(settings.workers_image or _NO_IMAGE),
        *_environment(settings),
        f"--environment_cache_millis={_WORKERS_LIVE_MILLISECONDS}",
        f"--job_server_timeout={_LONGEST_JOB_SECONDS}",
        f"--parallelism={settings.parallelism}",
        _SENDS_NOTHING,
        _PLUGIN,
        *settings.options,
    ]


def _local(parallelism: int) -> list[str]:
    if parallelism == 1:
        return list(LOCAL_BEAM_ARGS)
    return [*_LOCAL, "--direct_running_mode=multi_processing", f"--direct_num_workers={parallelism}", _PLUGIN]


def _environment(settings: BeamRunConfig) -> list[str]:
    config = {
        "external": settings.worker_pool,
        "process": json.dumps({"command": settings.worker_command}),
        "docker": settings.workers_image,
    }[settings.environment]
    return [f"--environment_type={settings.environment.upper()}", f"--environment_config={config}"]


def prepare_beam(config: BeamConfig, extra: Sequence[str] = (), nodes: Sequence[str] = ("",)) -> None:
    """Refuses what Beam would drop or wait for in silence: unknown arguments, a job server that does not answer.

    Workers that will be processes of this machine are told what to import, for as long as this process lives.

    Args:
      config: the section.
      extra: arguments of the command line.
      nodes: whose pipelines will run; "" is the section itself.

    Raises:
      UserError: one line for each mistake.
    """
    runs = [config.node(name) for name in nodes]
    options = list(dict.fromkeys([*(option for run in runs for option in run.options), *extra]))
    endpoints = dict.fromkeys(run.endpoint for run in runs if run.runner in WITH_JOB_SERVER and run.endpoint)
    services = [_job_service(endpoint) for endpoint in endpoints]
    if any(run.runner == "local" and run.parallelism > 1 for run in runs):
        _tell_local_workers()
    if not options:
        return
    known = {*_known_options(), *(f"--{name}" for service in services for name in _options_of(service))}
    problems = [_unknown(option, known) for option in options if option.partition("=")[0] not in known]
    if problems:
        raise UserError("\n".join(problems))


def repair_of(message: str) -> str:
    """What to do about an engine's error, as the end of a line; "" where nothing is known."""
    if _NO_BUFFERS not in message.lower():
        return ""
    return "; raise taskmanager.memory.network.max of Flink (docs/how-to/beam.md) or lower beam.parallelism"


def _tell_local_workers() -> None:
    """FnApiRunner gives its processes no options, plugins among them; this file they read all the same."""
    if _OPTIONS_FILE in os.environ:
        return
    with tempfile.NamedTemporaryFile("w", prefix="beam-options-", suffix=".json", delete=False) as file:
        json.dump({"options": {"beam_plugins": ["tfx"]}}, file)
    os.environ[_OPTIONS_FILE] = file.name
    atexit.register(Path(file.name).unlink, missing_ok=True)


def _unknown(option: str, known: set[str]) -> str:
    name = option.partition("=")[0]
    similar = difflib.get_close_matches(name, known, n=1)
    advice = f"; did you mean {similar[0]}?" if similar else ""
    return f"{name}: Apache Beam has no such option, expected one of its own{advice}"


def _known_options() -> Iterator[str]:
    """Options of every engine that Beam's Python package knows."""
    from apache_beam.options.pipeline_options import PipelineOptions

    parsers: list[argparse.ArgumentParser] = []
    PipelineOptions([]).get_all_options(add_extra_args_fn=parsers.append)
    return iter(parsers[0]._option_string_actions)


def _job_service(endpoint: str) -> "beam_job_api_pb2_grpc.JobServiceStub":
    """A stub for the job server.

    Raises:
      UserError: nobody answers.
    """
    import grpc
    from apache_beam.portability.api import beam_job_api_pb2_grpc

    channel = grpc.insecure_channel(endpoint)
    try:
        grpc.channel_ready_future(channel).result(timeout=_SECONDS_FOR_JOB_SERVER)
    except grpc.FutureTimeoutError:
        raise UserError(
            f"beam.endpoint: no job server answers at {endpoint} within {_SECONDS_FOR_JOB_SERVER:.0f} s, expected "
            "Beam's: is it running, and can it be reached from here?"
        ) from None
    return beam_job_api_pb2_grpc.JobServiceStub(channel)


def _options_of(service: "beam_job_api_pb2_grpc.JobServiceStub") -> list[str]:
    """What the engine behind a job server takes beside Beam's own; a server may not say."""
    import grpc
    from apache_beam.portability.api import beam_job_api_pb2

    try:
        answer = service.DescribePipelineOptions(
            beam_job_api_pb2.DescribePipelineOptionsRequest(), timeout=_SECONDS_FOR_JOB_SERVER
        )
    except grpc.RpcError:
        return []
    return [option.name for option in answer.options]
