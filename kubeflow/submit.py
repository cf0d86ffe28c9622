"""Sends a package to Kubeflow Pipelines, starts a run of it or a schedule, and follows a run to its end."""

import hashlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final, TypedDict, Unpack

import kfp_server_api
import yaml

from flexunet.core.config.kubeflow import KubeflowConfig
from flexunet.core.errors import Interrupted, UserError
from kubeflow.answers import KubeflowRun, Schedule, Task
from kubeflow.api import Again, Api, patience_ends
from kubeflow.files import Run
from kubeflow.outcome import Ended, Tell, Words, pod_name, tasks, telling_step, words_of
from kubeflow.package import PIPELINE_NAME, PREPARE, VERDICT, task_name

# kfp's own wait knows no CANCELED and waits for ever.
_ENDS: Final = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
# Of a server that is there and cannot give a pod's log; for one that is away there is the patience of every question.
_LOG_ATTEMPTS: Final = 5
_LONGEST_LOG_PAUSE: Final = 10.0


@dataclass(frozen=True)
class Target:
    """Which Kubeflow, and who the run is there."""

    host: str
    # Of a profile; None where Kubeflow has one user, whose API refuses a namespace.
    namespace: str | None
    experiment: str
    service_account: str


class Kubeflow:
    """What `flexunet kubeflow submit` asks of a server."""

    def __init__(self, target: Target, seconds_between: float) -> None:
        self._target, self._seconds_between = target, seconds_between
        self._api = Api(target.host, target.namespace, min(1.0, seconds_between))
        self._client = self._api.client
        experiment = self._api.ask(
            lambda: self._client.create_experiment(target.experiment, namespace=target.namespace)
        )
        self._experiment: str = experiment.experiment_id

    def upload(self, package: Path) -> tuple[str, str]:
        """Ids of the pipeline and of the version that holds this package; the same file is uploaded once."""
        # A version's name says what is in it.
        name = hashlib.sha256(package.read_bytes()).hexdigest()[:12]
        return self._api.ask(lambda: self._upload(package, name))

    def _upload(self, package: Path, name: str) -> tuple[str, str]:
        pipeline = self._pipeline() or self._new_pipeline()
        listed = self._client.list_pipeline_versions(pipeline, filter=_named(name))
        if listed.pipeline_versions:
            return pipeline, listed.pipeline_versions[0].pipeline_version_id
        uploaded = self._client.upload_pipeline_version(str(package), name, pipeline_id=pipeline)
        return pipeline, uploaded.pipeline_version_id

    def _pipeline(self) -> str | None:
        """Id in the namespace of the target, where the name is unique; kfp's own look-up takes no namespace."""
        listed = self._client.list_pipelines(filter=_named(PIPELINE_NAME), namespace=self._target.namespace)
        return listed.pipelines[0].pipeline_id if listed.pipelines else None

    def _new_pipeline(self) -> str:
        """Without a version: kfp's `upload_pipeline` would make one as well, called like the pipeline."""
        pipeline = kfp_server_api.V2beta1Pipeline(
            name=PIPELINE_NAME, display_name=PIPELINE_NAME, namespace=self._target.namespace
        )
        return self._client._pipelines_api.pipeline_service_create_pipeline(pipeline).pipeline_id

    def start(self, version: tuple[str, str], name: str, parameters: Mapping[str, object]) -> str:
        """Id of a new run."""
        service = self._client._run_api

        def make(mark: str) -> str:
            run = kfp_server_api.V2beta1Run(
                display_name=name, description=mark, **self._what_to_run(version, parameters)
            )
            return service.run_service_create_run(run).run_id

        def find(mark: str) -> str | None:
            listed = service.run_service_list_runs(
                experiment_id=self._experiment, page_size=100, sort_by="created_at desc"
            )
            return next((run.run_id for run in listed.runs or [] if run.description == mark), None)

        return self._api.create(make, find)

    def schedule(self, version: tuple[str, str], name: str, parameters: Mapping[str, object], cron: str) -> str:
        """Id of a schedule; runs share a folder and never overlap, and one that was missed is not made up for.

        Raises:
          UserError: the server drops the service account; the schedule is removed again.
        """
        service = self._client._recurring_run_api

        def make(mark: str) -> Schedule:
            trigger = kfp_server_api.V2beta1Trigger(cron_schedule=kfp_server_api.V2beta1CronSchedule(cron=cron))
            recurring = kfp_server_api.V2beta1RecurringRun(
                display_name=name,
                description=mark,
                mode=kfp_server_api.RecurringRunMode.ENABLE,
                max_concurrency="1",
                no_catchup=True,
                trigger=trigger,
                **self._what_to_run(version, parameters),
            )
            return service.recurring_run_service_create_recurring_run(recurring)

        def find(mark: str) -> Schedule | None:
            listed = service.recurring_run_service_list_recurring_runs(
                experiment_id=self._experiment, page_size=100, sort_by="created_at desc"
            )
            return next((run for run in listed.recurring_runs or [] if run.description == mark), None)

        recurring = self._api.create(make, find)
        self._check_account(recurring)
        return recurring.recurring_run_id

    def _what_to_run(self, version: tuple[str, str], parameters: Mapping[str, object]) -> dict[str, object]:
        pipeline, identity = version
        return {
            "experiment_id": self._experiment,
            "pipeline_version_reference": kfp_server_api.V2beta1PipelineVersionReference(
                pipeline_id=pipeline, pipeline_version_id=identity
            ),
            "runtime_config": kfp_server_api.V2beta1RuntimeConfig(parameters=dict(parameters)),
            "service_account": self._target.service_account,
        }

    def _check_account(self, recurring: Schedule) -> None:
        """The server answers with the account that its runs would have: up to 2.16 its own default."""
        wanted, given = self._target.service_account, recurring.service_account
        if given == wanted:
            return
        identity = recurring.recurring_run_id
        self._api.ask(lambda: self._client._recurring_run_api.recurring_run_service_delete_recurring_run(identity))
        raise UserError(
            f"{self._target.host}: Kubeflow {self._api.version()} would run the schedule as {given or 'its default'}, "
            f"expected {wanted}: servers before 2.17 drop the account of schedules, so it was removed again; "
            "use kubeflow/cluster/schedule, a CronJob that submits as that account"
        )

    def follow(self, run_id: str, names: Collection[str], tell: Tell) -> Ended:
        """Tells each change of the named tasks' states until the run ends; the run as it ended.

        Raises:
          Interrupted: somebody deleted the run, and its pods with it.
          UserError: the server refuses or stays away; says that the run goes on.
        """
        told, before = dict[str, str](), ""
        while True:
            try:
                run = self._api.ask(lambda: self._client.get_run(run_id))
            except UserError as error:
                link = self.link("runs", run_id)
                if getattr(error.__cause__, "status", None) == HTTPStatus.NOT_FOUND:
                    raise Interrupted(f"somebody deleted the run on Kubeflow: {link}", resumes=False) from error
                raise UserError(f"{error}; the run goes on: {link}") from error
            for name, task in tasks(run, names).items():
                if task.state and told.get(name) != task.state:
                    told[name] = task.state
                    tell(f"{name:<24} {task.state.lower()}")
            if run.state in _ENDS:
                return Ended(run, before)
            before = run.state
            time.sleep(self._seconds_between)

    def words(self, run: KubeflowRun, names: Collection[str], root: Path) -> Words | None:
        """What the step that ended the run said, from the volume, if `root` is mounted here, else from its pod's log.

        None: the run never came to such a step.
        """
        step = telling_step(run, names)
        if step is None:
            return None
        verdict = Run(root, run.run_id).read_verdict() if step == task_name(VERDICT) else None
        if verdict is not None:
            return Words(step, verdict)
        refused, until, pause = 0, patience_ends(), self._seconds_between
        while True:
            words, again = self._words_in_logs(step, run.run_id, tasks(run, names)[step])
            refused += again != "back"
            if words.found or not again or refused == _LOG_ATTEMPTS or time.monotonic() + pause > until:
                return words
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_LOG_PAUSE)

    def _words_in_logs(self, step: str, run_id: str, task: Task) -> tuple[Words, Again]:
        """What a task's pod printed, from wherever it can be had, and whether asking again may give more.

        Kubeflow's page has logs on a path of its own and passes on no v1alpha1, where the API server has them. That one
        asks for the pod in the run's namespace, which in an installation of one user is none, and finds nothing.
        """
        nodes = [child.pod_name for child in task.child_tasks or [] if child.pod_name] or [task.pod_name or ""]
        pods = [pod_name(nodes[0]), nodes[0]]
        query = {"runid": run_id, **({"podnamespace": self._target.namespace} if self._target.namespace else {})}
        sources = [
            *(("/k8s/pod/logs", {"podname": pod, **query}) for pod in pods),
            *((f"/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log", {}) for pod in pods),
        ]
        answers = set[Again]()
        for path, asked in sources:
            text, again = self._api.text(path, asked)
            words = words_of(step, text)
            if words.found:
                return words, ""
            answers.add(again)
        return Words(step), "back" if "back" in answers else "later" if "later" in answers else ""

    def link(self, kind: str, identity: str) -> str:
        return f"{self._target.host.rstrip('/')}/#/{kind}/details/{identity}"


def _named(name: str) -> str:
    """The filter of what is called so: a list has pages."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


class RunParameters(TypedDict):
    """What a run may be started with, as the command has it: None or empty where it was not given."""

    data: str | None
    span: int | None
    overrides: Sequence[str]
    accept_refused: str | None


def run_parameters(**given: Unpack[RunParameters]) -> dict[str, object]:
    """Only what was given: the rest are the package's defaults."""
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
