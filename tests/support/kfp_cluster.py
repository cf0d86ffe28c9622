"""Runs a package as Kubeflow's driver, launcher and Argo do, each container as a process of this machine.

Containers share the volumes that they mount and nothing else: each has an environment, a working directory and a
scratch folder of its own. As under Argo's executor, each begins with a umask of 0. What a process cannot show (image,
user, limits, a read-only root) other tests read or run.
"""

import json
import os
import re
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2
from kfp_package import Package

_TYPES = pipeline_spec_pb2.ParameterType
_PYTHON_TYPES: dict[int, tuple[type, ...]] = {
    _TYPES.STRING: (str,),
    _TYPES.NUMBER_INTEGER: (int, float),
    _TYPES.NUMBER_DOUBLE: (int, float),
    _TYPES.BOOLEAN: (bool,),
    _TYPES.LIST: (list,),
    _TYPES.STRUCT: (dict,),
}
_PARALLEL = 2


class Process(Protocol):
    """A started container."""

    pid: int

    def wait(self) -> int: ...


# How a container is started: command, environment, working directory, log.
Start = Callable[[list[str], dict[str, str], Path, Path], Process]
# Called in a thread while an attempt runs: task, number of the attempt, its process.
Watch = Callable[[str, int, Process], None]


def start_process(command: list[str], environment: dict[str, str], directory: Path, log: Path) -> Process:
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            env=environment,
            cwd=directory,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0,
        )


@dataclass
class Attempt:
    """One container of a task; what its own process ended with, Kubeflow does not see."""

    number: int
    child_exit_code: int
    log: Path

    @property
    def exit_code(self) -> int:
        """The launcher's, which starts the process and ends with 1 however that failed."""
        return 0 if self.child_exit_code == 0 else 1

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")


@dataclass
class Run:
    """What happened; tasks that never started have no attempts."""

    run_id: str
    attempts: dict[str, list[Attempt]] = field(default_factory=dict)

    @property
    def failed(self) -> list[str]:
        return [task for task, attempts in self.attempts.items() if attempts[-1].exit_code != 0]

    def log(self, task: str) -> str:
        return self.attempts[task][-1].text


@dataclass
class Cluster:
    """Secrets by name, volumes by claim, the image's environment."""

    package: Package
    secrets: Mapping[str, Mapping[str, str]]
    volumes: Mapping[str, Path]
    folder: Path
    image_environment: Mapping[str, str]

    def run(
        self,
        parameters: Mapping[str, Any] | None = None,
        start: Start = start_process,
        watch: Watch | None = None,
    ) -> Run:
        """Runs all tasks, two at a time; what waits for a failed one never starts."""
        run, values = Run(str(uuid.uuid4())), self._parameters(parameters or {})
        waiting, done, running = dict(self.package.tasks), set[str](), dict[Future[bool], str]()
        with ThreadPoolExecutor(_PARALLEL) as pool:
            while True:
                for name in [n for n, task in waiting.items() if set(task.dependent_tasks) <= done]:
                    del waiting[name]
                    running[pool.submit(self._task, run, name, values, start, watch)] = name
                if not running:
                    return run
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    name = running.pop(future)
                    if future.result():
                        done.add(name)

    def _parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """With defaults, as the API server checks them."""
        declared = self.package.spec.root.input_definitions.parameters
        unknown = set(given) - set(declared)
        if unknown:
            raise ValueError(f"parameters {sorted(unknown)} are not declared")
        values = {name: json_format.MessageToDict(spec.default_value) for name, spec in declared.items()}
        values |= given
        for name, value in values.items():
            if not isinstance(value, _PYTHON_TYPES[declared[name].parameter_type]):
                raise ValueError(f"parameter {name}: {value!r} is of another type")
        return values

    def _task(self, run: Run, name: str, values: Mapping[str, Any], start: Start, watch: Watch | None) -> bool:
        task = self.package.tasks[name]
        if task.caching_options.enable_cache:
            raise ValueError(f"{name}: Kubeflow's cache would take it from an earlier run")
        retries = task.retry_policy.max_retry_count if task.HasField("retry_policy") else 0
        started, longest = time.monotonic(), task.retry_policy.backoff_max_duration.ToSeconds()
        for number in range(retries + 1):
            # Argo's backoff.maxDuration counts from the first attempt's start; what takes longer is never retried.
            if number and time.monotonic() - started > longest:
                return False
            attempt = self.attempt(run, name, number, values, start, watch)
            run.attempts.setdefault(name, []).append(attempt)
            if attempt.exit_code == 0:
                return True
        return False

    def attempt(
        self,
        run: Run,
        name: str,
        number: int,
        values: Mapping[str, Any],
        start: Start = start_process,
        watch: Watch | None = None,
    ) -> Attempt:
        """One container of a task, from its start to its end."""
        folder = self.folder / run.run_id / f"{name}-{number}"
        for part in ("work", "scratch"):
            (folder / part).mkdir(parents=True)
        container, inputs = self.package.container(name), self._inputs(run, name, values)
        command = [_resolved(text, inputs) for text in [*container.command, *container.args]]
        environment = self._environment(name, folder / "scratch")
        command[0] = shutil.which(command[0], path=environment["PATH"]) or command[0]
        log = folder / "log"
        process = start(command, environment, folder / "work", log)
        if watch is not None:
            threading.Thread(target=watch, args=(name, number, process), daemon=True).start()
        return Attempt(number, process.wait(), log)

    def _inputs(self, run: Run, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """The driver knows a placeholder only where it is all of a constant."""
        known = {"{{$.pipeline_job_uuid}}": run.run_id, "{{$.pipeline_task_name}}": name}
        found: dict[str, Any] = {}
        for key, spec in self.package.tasks[name].inputs.parameters.items():
            if spec.WhichOneof("kind") == "component_input_parameter":
                found[key] = values[spec.component_input_parameter]
            elif spec.WhichOneof("kind") == "runtime_value":
                constant = json_format.MessageToDict(spec.runtime_value.constant)
                found[key] = known.get(constant, constant) if isinstance(constant, str) else constant
            else:
                raise ValueError(f"{name}: parameter {key} comes from {spec.WhichOneof('kind')}")
        return found

    def _environment(self, name: str, scratch: Path) -> dict[str, str]:
        environment = dict(self.image_environment)
        environment |= {variable.name: variable.value for variable in self.package.container(name).env}
        cluster = self.package.cluster(name)
        for reference in cluster.secret_as_env:
            secret = self.secrets.get(reference.secret_name_parameter.runtime_value.constant.string_value, {})
            for pair in reference.key_to_env:
                if pair.secret_key in secret:
                    environment[pair.env_var] = secret[pair.secret_key]
                elif not reference.optional:
                    raise ValueError(f"{name}: CreateContainerConfigError: no key {pair.secret_key} in the secret")
        for mount in cluster.pvc_mount:
            claim = mount.pvc_name_parameter.runtime_value.constant.string_value
            # A process sees the machine's paths: the package is compiled with the mount path of the test's volume.
            if Path(mount.mount_path) != self.volumes[claim]:
                raise ValueError(f"{name}: {claim} is mounted at {mount.mount_path}")
        if any(mount.mount_path == "/tmp" for mount in cluster.empty_dir_mounts):
            environment |= {"TMPDIR": str(scratch), "HOME": str(scratch)}
        return environment


def _resolved(text: str, inputs: Mapping[str, Any]) -> str:
    """As the launcher writes a parameter into a command: strings as they are, everything else as JSON."""

    def value(found: re.Match[str]) -> str:
        given = inputs[found[1]]
        if isinstance(given, float) and given.is_integer():
            given = int(given)
        return given if isinstance(given, str) else json.dumps(given)

    return re.sub(r"\{\{\$\.inputs\.parameters\['(\w+)'\]\}\}", value, text)


def has_ended(process: Process) -> bool:
    """Whether somebody who waited for it was told."""
    return not Path(f"/proc/{process.pid}").exists()


def kill(process: Process, signal: int) -> None:
    os.kill(process.pid, signal)
