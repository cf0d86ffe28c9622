"""`flexunet kubeflow submit` with kfp's real client, against a server that answers as Kubeflow's API does."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from flexunet.cli import main

CONFIG = '{"classes": [], "kubeflow": {"service_account": "mine"}}'
PACKAGE = f"""
pipelineInfo: {{name: flexunet}}
schemaVersion: 2.1.0
deploymentSpec:
  executors: {{exec-prepare: {{container: {{args: ["--config", '{CONFIG}', "--nodes", "RecordGen"]}}}}}}
root: {{dag: {{tasks: {{prepare: {{}}, trainer: {{}}, verdict: {{}}}}}}}}
"""
# What Kubeflow's launcher and Argo's executor write beside the container's words.
AROUND = (
    "I1124 23:50:01.123456       1 launcher_v2.go:192] publish success.\n",
    'time="2026-11-24T23:50:02Z" level=info msg="sub-process exited" argo=true error="<nil>"\n',
)
ACCEPTED = "foreground Dice 0.9000 on 6 test images\npassed: foreground Dice is 0.9\naccepted; the model is version 1\n"
REFUSED = (
    "foreground Dice 0.1000 on 6 test images\nFAILED: foreground Dice is 0.1: it must be at least 0.5\n"
    "error: the gate refused the model, nothing was pushed: foreground Dice is 0.1: it must be at least 0.5\n"
)
NOT_SERVABLE = (
    "foreground Dice 0.9000 on 6 test images\n"
    "error: the serving validator refused the model, nothing was pushed: one image takes 9 s\n"
)
# Argo's ids of nodes, and of the verdict's the name of its pod.
NODES = {"prepare": "flexunet-x7k2p-11", "trainer": "flexunet-x7k2p-22", "verdict": "flexunet-x7k2p-33"}
VERDICT_POD = "flexunet-x7k2p-system-container-impl-33"


class Api:
    """What was asked, and how a run goes: the states of its tasks, poll by poll."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.versions: list[dict[str, str]] = []
        self.pipelines: set[str | None] = set()
        self.states = [
            ("RUNNING", {"prepare": "RUNNING"}),
            ("SUCCEEDED", {"prepare": "SUCCEEDED", "verdict": "SUCCEEDED"}),
        ]
        self.log: str | None = ACCEPTED
        # Whether the host is Kubeflow's page, as in the how-to, or the API server itself.
        self.is_page = True
        self.namespaces: list[str | None] = []
        self.authorizations: set[str | None] = set()
        self.polls = 0

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> Any:
        parsed = json.loads(body) if body.startswith(b"{") else None
        self.asked.append((method, path, parsed if parsed is not None else query))
        routes: dict[tuple[str, str], Any] = {
            ("GET", "/apis/v2beta1/healthz"): lambda: {"multi_user": False},
            ("GET", "/apis/v2beta1/experiments"): lambda: {"experiments": []},
            ("POST", "/apis/v2beta1/experiments"): lambda: {"experiment_id": "e1", "display_name": "flexunet"},
            ("GET", "/apis/v2beta1/pipelines"): lambda: self._pipelines(query),
            ("POST", "/apis/v2beta1/pipelines/upload"): lambda: self._upload(query),
            ("GET", "/apis/v2beta1/pipelines/p1/versions"): lambda: {"pipeline_versions": self.versions},
            ("POST", "/apis/v2beta1/pipelines/upload_version"): lambda: self._version(query),
            ("POST", "/apis/v2beta1/runs"): lambda: {"run_id": "r1"},
            ("GET", "/apis/v2beta1/runs/r1"): self._run,
            ("POST", "/apis/v2beta1/recurringruns"): lambda: {"recurring_run_id": "s1"},
        }
        if self.is_page:
            routes["GET", "/k8s/pod/logs"] = lambda: self._log(query["podname"][0], query)
            # As a page's server answers what it does not know.
            routes["GET", f"/apis/v1alpha1/runs/r1/nodes/{VERDICT_POD}/log"] = lambda: "<!doctype html>"
        else:
            routes["GET", f"/apis/v1alpha1/runs/r1/nodes/{VERDICT_POD}/log"] = lambda: self._log(VERDICT_POD, query)
        return routes[method, path]()

    def _log(self, pod: str, query: dict[str, list[str]]) -> str:
        if self.log is None or pod != VERDICT_POD:
            raise KeyError("the pod and its log are gone")
        self.namespaces.append(query.get("podnamespace", [None])[0])
        return AROUND[0] + self.log + AROUND[1]

    def _pipelines(self, query: dict[str, list[str]]) -> Any:
        known = query.get("namespace", [None])[0] in self.pipelines
        return {"pipelines": [{"pipeline_id": "p1", "display_name": "flexunet"}]} if known else {}

    def _upload(self, query: dict[str, list[str]]) -> Any:
        self.pipelines.add(query.get("namespace", [None])[0])
        return {"pipeline_id": "p1"}

    def _version(self, query: dict[str, list[str]]) -> Any:
        version = {"pipeline_id": "p1", "pipeline_version_id": f"v{len(self.versions) + 1}"}
        self.versions.append({**version, "display_name": query["name"][0]})
        return version

    def _run(self) -> Any:
        state, tasks = self.states[min(self.polls, len(self.states) - 1)]
        self.polls += 1
        # Argo's nodes around them, also those of attempts; what a container ended with, the API does not say.
        details: list[dict[str, Any]] = [
            {"display_name": name, "state": "SUCCEEDED"} for name in ("root", "prepare-driver", "executor")
        ]
        details += [{"display_name": f"executor({number})", "state": "FAILED"} for number in (0, 1)]
        for name, task in tasks.items():
            node = NODES[name]
            details.append({"display_name": name, "state": task, "child_tasks": [{"pod_name": node}]})
        return {"run_id": "r1", "state": state, "run_details": {"task_details": details}}

    def body_of(self, method: str, path: str) -> Any:
        [found] = [body for m, p, body in self.asked if (m, p) == (method, path)]
        return found


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def host(api: Api) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            url = urlparse(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            api.authorizations.add(self.headers.get("Authorization"))
            try:
                answer, status = api.answer(self.command, url.path, parse_qs(url.query), body), 200
            except KeyError:
                answer, status = {"error": f"no such thing: {url.path}"}, 404
            content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            kind = "text/html" if content.startswith(b"<!doctype") else "text/plain"
            self.send_header("Content-Type", kind if isinstance(answer, str) else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = handle_any  # noqa: N815

        def log_message(self, *arguments: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "package.yaml"
    path.write_text(PACKAGE)
    return path


def submit(package: Path, host: str, *more: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main.main(["kubeflow", "submit", str(package), "--host", host, "--poll-seconds", "0.1", *more])
    return int(ended.value.code or 0)


def test_a_run_is_uploaded_started_and_followed_to_its_verdict(
    api: Api, host: str, package: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert submit(package, host, "--set", "train.epochs=3", "--span", "2", "--data", "more") == 0
    printed = capfd.readouterr()
    assert f"{host}/#/runs/details/r1" in printed.out
    assert [line.split() for line in printed.out.splitlines()[1:4]] == [
        ["prepare", "running"],
        ["prepare", "succeeded"],
        ["verdict", "succeeded"],
    ]
    assert printed.out.endswith("succeeded\n" + ACCEPTED)
    assert printed.err == ""
    assert api.authorizations == {None} and api.namespaces == [None]
    body = api.body_of("POST", "/apis/v2beta1/runs")
    assert body["runtime_config"]["parameters"] == {"data": "more", "span": 2, "overrides": ["train.epochs=3"]}
    assert body["service_account"] == "mine" and body["experiment_id"] == "e1"


def test_the_same_package_is_uploaded_once(api: Api, host: str, package: Path) -> None:
    assert submit(package, host, "--no-wait") == 0
    assert submit(package, host, "--no-wait") == 0
    uploads = [path for method, path, _ in api.asked if method == "POST" and "upload" in path]
    assert uploads == ["/apis/v2beta1/pipelines/upload", "/apis/v2beta1/pipelines/upload_version"]
    package.write_text(PACKAGE + "# changed\n")
    assert submit(package, host, "--no-wait") == 0
    assert len(api.versions) == 2


@pytest.mark.parametrize("is_page", [True, False], ids=["page", "api"])
@pytest.mark.parametrize(("log", "code"), [(REFUSED, 2), (NOT_SERVABLE, 4)], ids=["gate", "serving"])
def test_a_refused_model_ends_the_command_with_the_verdicts_words(
    api: Api, host: str, package: Path, capfd: pytest.CaptureFixture[str], log: str, code: int, is_page: bool
) -> None:
    api.states = [("FAILED", {"prepare": "SUCCEEDED", "verdict": "FAILED"})]
    api.log, api.is_page = log, is_page
    assert submit(package, host) == code
    printed = capfd.readouterr()
    words, _, error = log.partition("error: ")
    assert printed.out.endswith("failed\n" + words)
    assert printed.err == f"error: {error}"


def test_a_verdict_that_failed_otherwise_is_no_refusal(
    api: Api, host: str, package: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    api.states = [("FAILED", {"prepare": "SUCCEEDED", "verdict": "FAILED"})]
    api.log = "error: Evaluator: not done in this run\n"
    assert submit(package, host) == 3
    words = "the run ended as failed: verdict failed; Evaluator: not done in this run"
    assert capfd.readouterr().err == f"error: {words}; logs: {host}/#/runs/details/r1\n"


@pytest.mark.parametrize(("state", "code"), [("FAILED", 3), ("SUCCEEDED", 0)])
def test_where_the_log_is_gone_it_says_where_to_look(
    api: Api, host: str, package: Path, capfd: pytest.CaptureFixture[str], state: str, code: int
) -> None:
    api.states, api.log = [(state, {"verdict": state})], None
    assert submit(package, host) == code
    printed, link = capfd.readouterr(), f"{host}/#/runs/details/r1"
    assert f"the log of verdict cannot be had from here: read it at {link} or with `kubectl logs`" in printed.out
    failed = f"error: the run ended as failed: verdict failed; logs: {link}\n"
    assert printed.err == (failed if state == "FAILED" else "")


@pytest.mark.parametrize(("state", "trainer"), [("FAILED", "FAILED"), ("CANCELED", "RUNNING")])
def test_a_run_that_fails_elsewhere_or_is_ended_says_where(
    api: Api, host: str, package: Path, capfd: pytest.CaptureFixture[str], state: str, trainer: str
) -> None:
    api.states = [(state, {"trainer": trainer, "verdict": "SKIPPED"})]
    assert submit(package, host) == 3
    printed = capfd.readouterr()
    words = ": trainer failed" if state == "FAILED" else ""
    assert printed.err == f"error: the run ended as {state.lower()}{words}; logs: {host}/#/runs/details/r1\n"
    assert "executor" not in printed.out and "cannot be had" not in printed.out


def test_in_a_profile_the_pipeline_and_the_pods_are_those_of_its_namespace(api: Api, host: str, package: Path) -> None:
    api.pipelines = {None}
    assert submit(package, host, "--namespace", "team") == 0
    assert api.pipelines == {None, "team"} and api.namespaces == ["team"]
    assert api.body_of("POST", "/apis/v2beta1/experiments")["namespace"] == "team"


def test_a_schedule_runs_one_at_a_time(api: Api, host: str, package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert submit(package, host, "--schedule", "0 0 3 * * *", "--name", "nightly") == 0
    assert f"{host}/#/recurringrun/details/s1" in capfd.readouterr().out
    body = api.body_of("POST", "/apis/v2beta1/recurringruns")
    assert body["max_concurrency"] == 1 and body["no_catchup"] is True
    assert body["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
    assert body["display_name"] == "nightly"


def test_a_token_is_taken_from_the_environment_only(
    api: Api, host: str, package: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLEXUNET_KUBEFLOW_TOKEN", "s3cret")
    assert submit(package, host) == 0
    printed = capfd.readouterr()
    assert "s3cret" not in printed.out + printed.err
    assert api.authorizations == {"Bearer s3cret"} and "accepted" in printed.out


def test_no_kubeflow_there_is_one_line(package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert submit(package, "http://127.0.0.1:9") == 1
    error = capfd.readouterr().err
    assert error.startswith("error: http://127.0.0.1:9: no answer") and len(error.splitlines()) == 1


def test_a_refusal_of_the_api_is_one_line(
    api: Api, host: str, package: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "_version", lambda query: {}["missing"])
    assert submit(package, host) == 1
    assert capfd.readouterr().err == (
        f"error: {host}: Kubeflow answers 404: no such thing: /apis/v2beta1/pipelines/upload_version\n"
    )


def test_another_file_is_no_package(host: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.yaml").write_text("name: flexunet\n")
    assert submit(tmp_path / "other.yaml", host) == 1
    assert "no package of ours, expected what `flexunet kubeflow compile` writes" in capfd.readouterr().err
