"""Sends a package to Kubeflow Pipelines, starts a run of it or a schedule, and follows a run to its end."""

import hashlib
import io
import json
import os
import time
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import kfp
import kfp_server_api
import urllib3.exceptions
import yaml

from flexunet.core.config.kubeflow import KubeflowConfig
from flexunet.core.errors import UserError
from kubeflow.outcome import Tell, pod_name, tasks
from kubeflow.package import PIPELINE_NAME, PREPARE, task_name

# A token is a credential: from the environment only. Without one, kfp takes what the cluster or its own settings give.
TOKEN_VARIABLE: Final = "FLEXUNET_KUBEFLOW_TOKEN"  # noqa: S105
# kfp's own wait knows no CANCELED and waits for ever.
_ENDS: Final = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")


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
            pipeline = self._pipeline()
            if pipeline is None:
                uploaded = self._client.upload_pipeline(
                    str(package), pipeline_name=PIPELINE_NAME, namespace=self._target.namespace
                )
                pipeline = uploaded.pipeline_id
            listed = self._client.list_pipeline_versions(pipeline, page_size=100, sort_by="created_at desc")
            for version in listed.pipeline_versions or []:
                if version.display_name == name:
                    return pipeline, version.pipeline_version_id
            uploaded = self._client.upload_pipeline_version(str(package), name, pipeline_id=pipeline)
            return pipeline, uploaded.pipeline_version_id

    def _pipeline(self) -> str | None:
        """Id in the namespace of the target, where the name is unique; kfp's own look-up takes no namespace."""
        named = {"operation": "EQUALS", "key": "display_name", "stringValue": PIPELINE_NAME}
        listed = self._client.list_pipelines(
            filter=json.dumps({"predicates": [named]}), namespace=self._target.namespace
        )
        return listed.pipelines[0].pipeline_id if listed.pipelines else None

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

    def follow(self, run_id: str, names: Collection[str], tell: Tell, seconds_between: float) -> Any:
        """Tells each change of the named tasks' states until the run ends; the run as it ended."""
        told: dict[str, str] = {}
        while True:
            with _asking(self._target.host):
                run = self._client.get_run(run_id)
            for name, task in tasks(run, names).items():
                if task.state and told.get(name) != task.state:
                    told[name] = task.state
                    tell(f"{name:<24} {task.state.lower()}")
            if run.state in _ENDS:
                return run
            time.sleep(seconds_between)

    def log(self, run_id: str, task: Any) -> str:
        """What a task's pod printed; "" where it cannot be had."""
        nodes = [child.pod_name for child in task.child_tasks or [] if child.pod_name] or [task.pod_name or ""]
        pods = [pod_name(nodes[0]), nodes[0]]
        query = {"runid": run_id, **({"podnamespace": self._target.namespace} if self._target.namespace else {})}
        # Kubeflow's page has logs on a path of its own and passes on no v1alpha1, where the API server has them.
        of_page = [("/k8s/pod/logs", {"podname": pod, **query}) for pod in pods]
        of_api = [(f"/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log", {}) for pod in pods]
        return next(filter(None, (self._text(path, query) for path, query in [*of_page, *of_api])), "")

    def _text(self, path: str, query: Mapping[str, str]) -> str:
        """A plain text of the host; "" for an error and for the pages that a web server answers unknown paths with."""
        try:
            text, _, headers = self._client._run_api.api_client.call_api(
                path, "GET", query_params=dict(query), response_type="str", auth_settings=["Bearer"]
            )
        except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError, ValueError):
            return ""
        return "" if "html" in (headers.get("Content-Type") or "") else text

    def link(self, kind: str, identity: str) -> str:
        return f"{self._target.host.rstrip('/')}/#/{kind}/details/{identity}"


def run_parameters(
    data: str | None, span: int | None, overrides: list[str], accept_refused: str | None
) -> dict[str, Any]:
    """Only what was given: the rest are the package's defaults."""
    given = {"data": data, "span": span, "overrides": overrides, "accept_refused": accept_refused}
    return {name: value for name, value in given.items() if value}


def read_package(package: Path) -> tuple[KubeflowConfig, list[str]]:
    """`[kubeflow]` as the package was compiled with, which stands among the arguments of prepare, and its tasks' names.

    Raises:
      UserError: it is no package of this project.
    """
    try:
        documents = [d for d in yaml.safe_load_all(package.read_text(encoding="utf-8")) if isinstance(d, dict)]
        [spec] = [d for d in documents if d.get("pipelineInfo", {}).get("name") == PIPELINE_NAME]
        arguments = spec["deploymentSpec"]["executors"][f"exec-{task_name(PREPARE)}"]["container"]["args"]
        config = json.loads(arguments[arguments.index("--config") + 1])
        names = list(spec["root"]["dag"]["tasks"])
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{package}: no package of ours, expected what `flexunet kubeflow compile` writes") from None
    return KubeflowConfig.model_validate(config.get("kubeflow", {})), names


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
