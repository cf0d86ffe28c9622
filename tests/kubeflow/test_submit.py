"""`flexunet kubeflow submit` with kfp's real client, against a server that answers as Kubeflow's API does."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from pipeline import cli

CONFIG = '{"classes": [], "kubeflow": {"service_account": "mine"}}'
PACKAGE = f"""
pipelineInfo: {{name: flexunet}}
schemaVersion: 2.1.0
deploymentSpec:
  executors: {{exec-prepare: {{container: {{args: ["--config", '{CONFIG}', "--nodes", "RecordGen"]}}}}}}
"""
ACCEPTED = "foreground Dice 0.9000 on 6 test images\npassed: foreground Dice is 0.9\naccepted; the model is version 1\n"
REFUSED = (
    "foreground Dice 0.1000 on 6 test images\nFAILED: foreground Dice is 0.1: it must be at least 0.5\n"
    "error: the gate refused the model, nothing was pushed: foreground Dice is 0.1: it must be at least 0.5\n"
)


class Api:
    """What was asked, and how a run goes: the states of its tasks, poll by poll."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.versions: list[dict[str, str]] = []
        self.has_pipeline = False
        self.states = [
            ("RUNNING", {"prepare": "RUNNING"}),
            ("SUCCEEDED", {"prepare": "SUCCEEDED", "verdict": "SUCCEEDED"}),
        ]
        self.verdict_error = ""
        self.log: str | None = ACCEPTED
        self.polls = 0

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> Any:
        parsed = json.loads(body) if body.startswith(b"{") else None
        self.asked.append((method, path, parsed if parsed is not None else query))
        routes: dict[tuple[str, str], Any] = {
            ("GET", "/apis/v2beta1/healthz"): lambda: {"multi_user": False},
            ("GET", "/apis/v2beta1/experiments"): lambda: {"experiments": []},
            ("POST", "/apis/v2beta1/experiments"): lambda: {"experiment_id": "e1", "display_name": "flexunet"},
            ("GET", "/apis/v2beta1/pipelines"): self._pipelines,
            ("POST", "/apis/v2beta1/pipelines/upload"): self._upload,
            ("GET", "/apis/v2beta1/pipelines/p1/versions"): lambda: {"pipeline_versions": self.versions},
            ("POST", "/apis/v2beta1/pipelines/upload_version"): lambda: self._version(query),
            ("POST", "/apis/v2beta1/runs"): lambda: {"run_id": "r1"},
            ("GET", "/apis/v2beta1/runs/r1"): self._run,
            ("POST", "/apis/v2beta1/recurringruns"): lambda: {"recurring_run_id": "s1"},
            ("GET", "/apis/v1alpha1/runs/r1/nodes/pod-of-verdict/log"): self._log,
        }
        return routes[method, path]()

    def _log(self) -> str:
        if self.log is None:
            raise KeyError("the pod and its log are gone")
        return self.log

    def _pipelines(self) -> Any:
        return {"pipelines": [{"pipeline_id": "p1", "display_name": "flexunet"}]} if self.has_pipeline else {}

    def _upload(self) -> Any:
        self.has_pipeline = True
        return {"pipeline_id": "p1"}

    def _version(self, query: dict[str, list[str]]) -> Any:
        version = {"pipeline_id": "p1", "pipeline_version_id": f"v{len(self.versions) + 1}"}
        self.versions.append({**version, "display_name": query["name"][0]})
        return version

    def _run(self) -> Any:
        state, tasks = self.states[min(self.polls, len(self.states) - 1)]
        self.polls += 1
        details: list[dict[str, Any]] = [
            {"display_name": name, "state": "SUCCEEDED"} for name in ("root", "prepare-driver")
        ]
        for name, task in tasks.items():
            error = {"error": {"message": self.verdict_error}} if task == "FAILED" else {}
            details.append(
                {"display_name": name, "state": task, "child_tasks": [{"pod_name": f"pod-of-{name}"}], **error}
            )
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
            try:
                answer, status = api.answer(self.command, url.path, parse_qs(url.query), body), 200
            except KeyError:
                answer, status = {"error": f"no such thing: {url.path}"}, 404
            content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
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
        cli.main(["kubeflow", "submit", str(package), "--host", host, "--poll-seconds", "0.1", *more])
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
    assert "accepted; the model is version 1" in printed.out
    assert printed.err == ""
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


@pytest.mark.parametrize(
    ("message", "code"),
    [("Error (exit code 2): the gate refused the model", 2), ("Error (exit code 4): the serving validator", 4)],
)
def test_a_refused_model_ends_the_command_with_the_gates_words(
    api: Api, host: str, package: Path, capfd: pytest.CaptureFixture[str], message: str, code: int
) -> None:
    api.states = [("FAILED", {"prepare": "SUCCEEDED", "verdict": "FAILED"})]
    api.verdict_error, api.log = message, REFUSED
    assert submit(package, host) == code
    printed = capfd.readouterr()
    assert "FAILED: foreground Dice is 0.1" in printed.out
    assert printed.err == (
        "error: the gate refused the model, nothing was pushed: foreground Dice is 0.1: it must be at least 0.5\n"
    )


def test_the_gates_words_come_from_the_pods_last_message_where_the_log_is_gone(
    api: Api, host: str, package: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    api.states = [("FAILED", {"verdict": "FAILED"})]
    api.verdict_error, api.log = "Error (exit code 2): the gate refused the model: Dice", None
    assert submit(package, host) == 2
    assert "error: Error (exit code 2): the gate refused the model: Dice" in capfd.readouterr().err


@pytest.mark.parametrize("state", ["FAILED", "CANCELED"])
def test_a_run_that_fails_elsewhere_or_is_ended_says_where(
    api: Api, host: str, package: Path, capfd: pytest.CaptureFixture[str], state: str
) -> None:
    api.states = [(state, {"trainer": "FAILED"} if state == "FAILED" else {"trainer": "RUNNING"})]
    api.verdict_error = "Error (exit code 3): Trainer failed: ValueError: no images"
    assert submit(package, host) == 3
    error = capfd.readouterr().err
    assert f"error: the run ended as {state.lower()}" in error
    assert ("trainer: Error (exit code 3): Trainer failed: ValueError: no images" in error) == (state == "FAILED")


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
