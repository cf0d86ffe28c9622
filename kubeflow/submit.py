"""Sends a package to Kubeflow Pipelines, starts a run of it or a schedule, and follows a run to its verdict."""

import hashlib
import io
import json
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import kfp
import kfp_server_api
import urllib3.exceptions
import yaml

from kubeflow.package import PIPELINE_NAME, PREPARE, VERDICT, task_name
from pipeline.cluster import KubeflowConfig
from pipeline.errors import ModelRefused, NodeFailed, ServingRefused, UserError

# A token is a credential: from the environment only. Without one, kfp takes what the cluster or its own settings give.
TOKEN_VARIABLE: Final = "FLEXUNET_KUBEFLOW_TOKEN"  # noqa: S105
# kfp's own wait knows no CANCELED and waits for ever.
_ENDS: Final = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
# As the verdict's container ends: kubeflow/verdict.py.
_REFUSALS: Final = {2: ModelRefused, 4: ServingRefused}

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Target:
    """Which Kubeflow, and who the run is there."""

    host: str
    # Of a profile; None where Kubeflow has one user, whose API refuses a namespace.
    namespace: str | None
    experiment: str
    service_account: str


class Kubeflow:
    """kfp's client with errors of one line."""

    def __init__(self, target: Target) -> None:
        self._target = target
        with _asking(target.host), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            # Its generated types say that every field may be missing.
            self._client: Any = kfp.Client(
                host=target.host,
                namespace=target.namespace or "kubeflow",
                existing_token=os.environ.get(TOKEN_VARIABLE) or None,
            )
            self._experiment = self._client.create_experiment(
                target.experiment, namespace=target.namespace
            ).experiment_id

    def upload(self, package: Path) -> tuple[str, str]:
        """Ids of the pipeline and of the version that holds this package; the same file is uploaded once."""
        # A version's name says what is in it.
        name = hashlib.sha256(package.read_bytes()).hexdigest()[:12]
        with _asking(self._target.host):
            pipeline = self._client.get_pipeline_id(PIPELINE_NAME)
            if pipeline is None:
                pipeline = self._client.upload_pipeline(str(package), pipeline_name=PIPELINE_NAME).pipeline_id
            listed = self._client.list_pipeline_versions(pipeline, page_size=100, sort_by="created_at desc")
            for version in listed.pipeline_versions or []:
                if version.display_name == name:
                    return pipeline, version.pipeline_version_id
            uploaded = self._client.upload_pipeline_version(str(package), name, pipeline_id=pipeline)
            return pipeline, uploaded.pipeline_version_id

    def start(self, version: tuple[str, str], name: str, parameters: Mapping[str, Any]) -> str:
        """Id of a new run."""
        with _asking(self._target.host):
            run = self._client.run_pipeline(
                self._experiment,
                name,
                params=dict(parameters),
                pipeline_id=version[0],
                version_id=version[1],
                service_account=self._target.service_account,
            )
        return run.run_id

    def schedule(self, version: tuple[str, str], name: str, parameters: Mapping[str, Any], cron: str) -> str:
        """Id of a schedule; runs share a folder and never overlap, and one that was missed is not made up for."""
        with _asking(self._target.host):
            recurring = self._client.create_recurring_run(
                self._experiment,
                name,
                cron_expression=cron,
                max_concurrency=1,
                no_catchup=True,
                params=dict(parameters),
                pipeline_id=version[0],
                version_id=version[1],
                service_account=self._target.service_account,
            )
        return recurring.recurring_run_id

    def follow(self, run_id: str, tell: Tell, seconds_between: float) -> Any:
        """Tells each change of a task's state until the run ends; the run as it ended."""
        told: dict[str, str] = {}
        while True:
            with _asking(self._target.host):
                run = self._client.get_run(run_id)
            for name, task in tasks(run).items():
                if task.state and told.get(name) != task.state:
                    told[name] = task.state
                    tell(f"{name:<24} {task.state.lower()}")
            if run.state in _ENDS:
                return run
            time.sleep(seconds_between)

    def log(self, run_id: str, task: Any) -> str:
        """What a task's pod printed; "" where Kubeflow keeps it no longer."""
        pods = [child.pod_name for child in task.child_tasks or [] if child.pod_name] or [task.pod_name]
        try:
            return self._client._run_api.api_client.call_api(
                "/apis/v1alpha1/runs/{run_id}/nodes/{node_id}/log",
                "GET",
                path_params={"run_id": run_id, "node_id": pods[0]},
                response_type="str",
                auth_settings=["Bearer"],
                _return_http_data_only=True,
            )
        except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError, ValueError):
            return ""

    def link(self, kind: str, identity: str) -> str:
        return f"{self._target.host.rstrip('/')}/#/{kind}/details/{identity}"


def tasks(run: Any) -> dict[str, Any]:
    """The tasks of the package by name, as they are called or shown, without those that Kubeflow puts around them."""
    details = run.run_details.task_details if run.run_details else []
    around = re.compile(r".*-driver$|^(executor|root|driver)$|\.")
    named = [d for d in details or [] if d.display_name and not around.search(d.display_name)]
    return {task_name(d.display_name): d for d in named}


def judge(run: Any, verdict_log: str, tell: Tell) -> None:
    """Tells the scores and the gate's words.

    Raises:
      ModelRefused, ServingRefused: the verdict failed the run.
      NodeFailed: another task did, or somebody ended the run.
    """
    verdict = task_name(VERDICT)
    lines = verdict_log.strip().splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    for line in lines:
        if not line.startswith("error: "):
            tell(line)
    if run.state == "SUCCEEDED":
        return
    failed = {name: _message(task) for name, task in tasks(run).items() if task.state == "FAILED"}
    if set(failed) == {verdict}:
        code = re.search(r"exit code (\d+)", failed[verdict])
        refusal = _REFUSALS.get(int(code[1]) if code else 0)
        if refusal is not None:
            raise refusal("\n".join(errors) or failed[verdict])
    words = "; ".join(f"{name}: {message}" for name, message in failed.items())
    raise NodeFailed(f"the run ended as {run.state.lower()}{f': {words}' if words else ''}")


def run_parameters(
    data: str | None, span: int | None, overrides: list[str], accept_refused: str | None
) -> dict[str, Any]:
    """Only what was given: the rest are the package's defaults."""
    given = {"data": data, "span": span, "overrides": overrides, "accept_refused": accept_refused}
    return {name: value for name, value in given.items() if value}


def read_settings(package: Path) -> KubeflowConfig:
    """`[kubeflow]` as the package was compiled with: it stands among the arguments of prepare.

    Raises:
      UserError: it is no package of this project.
    """
    try:
        documents = [d for d in yaml.safe_load_all(package.read_text(encoding="utf-8")) if isinstance(d, dict)]
        [spec] = [d for d in documents if d.get("pipelineInfo", {}).get("name") == PIPELINE_NAME]
        arguments = spec["deploymentSpec"]["executors"][f"exec-{task_name(PREPARE)}"]["container"]["args"]
        config = json.loads(arguments[arguments.index("--config") + 1])
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{package}: no package of ours, expected what `flexunet kubeflow compile` writes") from None
    return KubeflowConfig.model_validate(config.get("kubeflow", {}))


def _message(task: Any) -> str:
    """Of the newest state that came with one."""
    errors = [task.error, *(status.error for status in reversed(task.state_history or []))]
    return next((error.message for error in errors if error is not None and error.message), "no message")


@contextmanager
def _asking(host: str) -> Iterator[None]:
    """Errors of the API as the user's: a wrong host, no rights, a refused parameter. What kfp prints is dropped.

    Raises:
      UserError: one line.
    """
    try:
        with redirect_stdout(io.StringIO()):
            yield
    except kfp_server_api.ApiException as error:
        raise UserError(f"{host}: Kubeflow answers {error.status}: {_reason(error)}") from error
    except (urllib3.exceptions.HTTPError, ConnectionError) as error:
        raise UserError(f"{host}: no answer ({type(error).__name__}), expected Kubeflow Pipelines' API") from error


def _reason(error: Any) -> str:
    try:
        body = json.loads(error.body)
        return str(body.get("error_description") or body.get("error") or body.get("message") or error.reason)
    except (TypeError, ValueError, AttributeError):
        return str(error.reason)
