"""`flexunet kubeflow submit` with kfp's real client, against a server that answers as Kubeflow's API does."""

import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kfp_api import DEFAULT_ACCOUNT, Api, Failure, served, slowly

from flexunet.cli import main
from flexunet.core.errors import ModelRefused, ServingRefused
from kubeflow import api as api_module
from kubeflow import files, outcome
from kubeflow import submit as submission

CONFIG = '{"classes": [], "kubeflow": {"service_account": "mine"}}'
PACKAGE = f"""
pipelineInfo: {{name: flexunet}}
schemaVersion: 2.1.0
deploymentSpec:
  executors: {{exec-prepare: {{container: {{args: ["--config", '{CONFIG}', "--nodes", "RecordGen"]}}}}}}
root: {{dag: {{tasks: {{prepare: {{}}, trainer: {{}}, verdict: {{}}}}}}}}
"""


def words(refused_by: str, error: str, *lines: str) -> str:
    """What the container of the verdict prints."""
    told = json.dumps({"refused_by": refused_by, "error": error, "lines": lines})
    printed = [*lines, f"flexunet-verdict: {told}", *([f"error: {error}"] if error else [])]
    return "".join(f"{line}\n" for line in printed)


SCORES = "foreground Dice 0.9000 on 6 test images"
GATE = "the gate refused the model, nothing was pushed: foreground Dice is 0.1: it must be at least 0.5"
SERVING = "the serving validator refused the model, nothing was pushed: one image takes 9 s"
ACCEPTED = words("", "", SCORES, "passed: foreground Dice is 0.9", "accepted; the model is version 1")
REFUSED = words("gate", GATE, SCORES, "FAILED: foreground Dice is 0.1: it must be at least 0.5")
NOT_SERVABLE = words("serving", SERVING, SCORES)


@pytest.fixture
def api() -> Api:
    states = [
        ("RUNNING", {"prepare": "RUNNING"}),
        ("SUCCEEDED", {"prepare": "SUCCEEDED", "verdict": "SUCCEEDED"}),
    ]
    return Api(states, {"verdict": ACCEPTED})


@pytest.fixture
def host(api: Api) -> Iterator[str]:
    with served(api) as address:
        yield address


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
    assert printed.out.endswith(
        f"succeeded\n{SCORES}\npassed: foreground Dice is 0.9\naccepted; the model is version 1\n"
    )
    assert printed.err == ""
    assert api.authorizations == {None} and api.namespaces == [None]
    [body] = api.bodies("POST", "/apis/v2beta1/runs")
    assert body["runtime_config"]["parameters"] == {"data": "more", "span": 2, "overrides": ["train.epochs=3"]}
    assert body["service_account"] == "mine" and body["experiment_id"] == "e1"


def test_the_same_package_is_uploaded_once_and_is_the_only_version(api: Api, host: str, package: Path) -> None:
    assert submit(package, host, "--no-wait") == 0
    assert len(api.pipelines[None]) == 1
    assert submit(package, host, "--no-wait") == 0
    assert len(api.pipelines[None]) == 1
    package.write_text(PACKAGE + "# changed\n")
    assert submit(package, host, "--no-wait") == 0
    assert len(api.pipelines[None]) == 2


def test_a_package_of_long_ago_is_found_among_many(api: Api, host: str, package: Path) -> None:
    others = [{"pipeline_version_id": f"v{number}", "display_name": f"{number:012d}"} for number in range(150)]
    api.pipelines[None] = others[:]
    for _ in range(2):
        assert submit(package, host, "--no-wait") == 0
        assert len(api.pipelines[None]) == 151


@pytest.mark.parametrize("is_page", [True, False], ids=["page", "api of several users"])
@pytest.mark.parametrize(
    ("log", "code", "error"), [(REFUSED, 2, GATE), (NOT_SERVABLE, 4, SERVING)], ids=["gate", "serving"]
)
def test_a_refused_model_ends_the_command_with_the_verdicts_words_and_nobody_elses(
    api: Api,
    host: str,
    package: Path,
    capfd: pytest.CaptureFixture[str],
    log: str,
    code: int,
    error: str,
    is_page: bool,
) -> None:
    api.states = [("FAILED", {"prepare": "SUCCEEDED", "verdict": "FAILED"})]
    api.logs, api.is_page, api.is_multi_user = {"verdict": log}, is_page, True
    assert submit(package, host, "--namespace", "team") == code
    printed = capfd.readouterr()
    told = printed.out.partition("failed\n")[2].splitlines()
    assert told == log.partition("flexunet-verdict")[0].splitlines()
    assert printed.err == f"error: {error}\n"


def test_an_error_in_place_of_a_log_is_not_told_as_the_verdicts_words(
    api: Api, host: str, package: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    api.states = [("FAILED", {"prepare": "SUCCEEDED", "verdict": "FAILED"})]
    api.logs, api.is_page = {"verdict": REFUSED}, False
    assert submit(package, host) == 3
    printed, link = capfd.readouterr(), f"{host}/#/runs/details/r1"
    assert "error_message" not in printed.out + printed.err
    assert printed.err == (
        "error: the run ended as failed: verdict failed; its words cannot be had from here: read them at "
        f"{link} or with `kubectl logs` of its pod; logs: {link}\n"
    )


def test_where_the_volume_is_mounted_the_verdict_is_read_from_it(
    api: Api, host: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "package.yaml"
    mounted = CONFIG.replace('"mine"', f'"mine", "mount_path": "{tmp_path}", "root": "runs/main"')
    package.write_text(PACKAGE.replace(CONFIG, mounted))
    api.states = [("FAILED", {"prepare": "SUCCEEDED", "verdict": "FAILED"})]
    api.logs, api.is_page = {}, False
    run = files.Run(tmp_path / "runs" / "main", "r1")
    run.folder.mkdir(parents=True)
    run.write_verdict(files.Verdict("gate", GATE, [SCORES]))
    assert submit(package, host) == 2
    printed = capfd.readouterr()
    assert printed.out.endswith(f"failed\n{SCORES}\n") and printed.err == f"error: {GATE}\n"


def test_a_verdict_that_failed_otherwise_is_no_refusal(
    api: Api, host: str, package: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    api.states = [("FAILED", {"prepare": "SUCCEEDED", "verdict": "FAILED"})]
    api.logs = {"verdict": "error: Evaluator: not done in this run\n"}
    assert submit(package, host) == 3
    words = "the run ended as failed: verdict failed; Evaluator: not done in this run"
    assert capfd.readouterr().err == f"error: {words}; logs: {host}/#/runs/details/r1\n"


def test_what_prepare_refuses_is_told(api: Api, host: str, package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    api.states = [("FAILED", {"prepare": "FAILED", "verdict": "RUNTIME_STATE_UNSPECIFIED"})]
    api.logs = {"prepare": "error: unknown key train.epoch; did you mean epochs?\n"}
    assert submit(package, host, "--set", "train.epoch=3") == 3
    words = "the run ended as failed: prepare failed; unknown key train.epoch; did you mean epochs?"
    assert capfd.readouterr().err == f"error: {words}; logs: {host}/#/runs/details/r1\n"


@pytest.mark.parametrize(("state", "code"), [("FAILED", 3), ("SUCCEEDED", 0)])
def test_where_the_log_is_gone_it_says_where_to_look(
    api: Api, host: str, package: Path, capfd: pytest.CaptureFixture[str], state: str, code: int
) -> None:
    api.states, api.logs = [(state, {"verdict": state})], {}
    assert submit(package, host) == code
    printed, link = capfd.readouterr(), f"{host}/#/runs/details/r1"
    where = f"cannot be had from here: read them at {link} or with `kubectl logs` of its pod"
    failed = f"error: the run ended as failed: verdict failed; its words {where}; logs: {link}\n"
    assert printed.err == (failed if state == "FAILED" else "")
    assert (f"the words of verdict {where}" in printed.out) == (state == "SUCCEEDED")


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ({"trainer": "FAILED", "verdict": "SKIPPED"}, "trainer failed"),
        ({"prepare-driver": "FAILED"}, "prepare-driver failed"),
        ({}, "Kubeflow does not say at which step"),
    ],
    ids=["node", "driver", "nothing"],
)
def test_a_run_that_fails_elsewhere_says_where(
    api: Api, host: str, package: Path, capfd: pytest.CaptureFixture[str], tasks: dict[str, str], words: str
) -> None:
    api.states = [("FAILED", tasks)]
    assert submit(package, host) == 3
    printed = capfd.readouterr()
    assert printed.err == f"error: the run ended as failed: {words}; logs: {host}/#/runs/details/r1\n"
    assert "executor" not in printed.out and "cannot be had" not in printed.out


@pytest.mark.parametrize("is_noted", [True, False], ids=["in history", "seen"])
@pytest.mark.parametrize("states", [["RUNNING", "CANCELING", "FAILED"], ["RUNNING", "CANCELED"]], ids="-".join)
def test_a_run_that_somebody_ended_is_no_failure_of_a_node(
    api: Api,
    host: str,
    package: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    states: list[str],
    is_noted: bool,
) -> None:
    monkeypatch.setattr("os._exit", sys.exit)
    api.notes_canceling = is_noted
    api.states = [(state, {"trainer": "FAILED" if state == "FAILED" else "RUNNING"}) for state in states]
    assert submit(package, host) == 130
    at = " at trainer" if states[-1] == "FAILED" else ""
    assert capfd.readouterr().err.startswith(
        f"error: interrupted; somebody ended the run on Kubeflow{at}: {host}/#/runs/details/r1"
    )


def test_a_run_that_somebody_deleted_does_not_go_on(
    api: Api, host: str, package: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os._exit", sys.exit)
    api.states = [("RUNNING", {"trainer": "RUNNING"})]
    api.fail = lambda method, path: 404 if api.polls else None
    assert submit(package, host) == 130
    words = f"error: interrupted; somebody deleted the run on Kubeflow: {host}/#/runs/details/r1"
    assert capfd.readouterr().err.startswith(words)


def test_a_run_that_was_retried_after_somebody_ended_it_fails_as_any_other(
    api: Api, host: str, package: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    api.states = [(state, {"trainer": "FAILED"}) for state in ("RUNNING", "CANCELING", "PENDING", "FAILED")]
    assert submit(package, host) == 3
    assert "trainer failed" in capfd.readouterr().err


def test_in_a_profile_the_pipeline_and_the_pods_are_those_of_its_namespace(api: Api, host: str, package: Path) -> None:
    api.pipelines[None] = []
    assert submit(package, host, "--namespace", "team") == 0
    assert {namespace: len(versions) for namespace, versions in api.pipelines.items()} == {None: 0, "team": 1}
    assert api.namespaces == ["team"]
    [body] = api.bodies("POST", "/apis/v2beta1/experiments")
    assert body["namespace"] == "team"


def test_a_schedule_runs_one_at_a_time(api: Api, host: str, package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    api.version = "2.17.0"
    assert submit(package, host, "--schedule", "0 0 3 * * *", "--name", "nightly") == 0
    assert f"{host}/#/recurringrun/details/s1" in capfd.readouterr().out
    [body] = api.schedules.values()
    assert body["max_concurrency"] == "1" and body["no_catchup"] is True
    assert body["service_account"] == "mine" and body["mode"] == "ENABLE"
    assert body["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
    assert body["display_name"] == "nightly"


def test_a_schedule_whose_account_the_server_drops_is_removed_and_says_what_to_do(
    api: Api, host: str, package: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert submit(package, host, "--schedule", "0 0 3 * * *") == 1
    assert api.schedules == {}
    error = capfd.readouterr().err
    assert error.startswith(
        f"error: {host}: Kubeflow 2.16.1 would run the schedule as {DEFAULT_ACCOUNT}, expected mine: "
    )
    assert "kubeflow/cluster/schedule" in error and len(error.splitlines()) == 1


def test_a_token_is_taken_from_the_environment_only(
    api: Api, host: str, package: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLEXUNET_KUBEFLOW_TOKEN", "s3cret")
    assert submit(package, host) == 0
    printed = capfd.readouterr()
    assert "s3cret" not in printed.out + printed.err
    assert api.authorizations == {"Bearer s3cret"} and "accepted" in printed.out


def test_in_a_pod_the_token_is_read_anew_for_each_request(
    api: Api, host: str, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(token))

    def rotated(method: str, path: str) -> Failure:
        if path.endswith("/runs/r1"):
            token.write_text("second")

    api.fail = rotated
    assert submit(package, host) == 0
    assert api.authorizations == {"Bearer first", "Bearer second"}


def test_no_kubeflow_there_is_one_line(package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert submit(package, "http://127.0.0.1:9") == 1
    error = capfd.readouterr().err
    assert error.startswith("error: http://127.0.0.1:9: no answer") and len(error.splitlines()) == 1


def test_a_refusal_of_the_api_is_one_line(
    api: Api, host: str, package: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "_post_runs", lambda *given: {}["missing"])
    assert submit(package, host) == 1
    assert capfd.readouterr().err == f"error: {host}: Kubeflow answers 404: no such thing: /apis/v2beta1/runs\n"


def test_another_file_is_no_package(host: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.yaml").write_text("name: flexunet\n")
    assert submit(tmp_path / "other.yaml", host) == 1
    assert "no package of ours, expected what `flexunet kubeflow compile` writes" in capfd.readouterr().err


def answers_that_get_lost(seed: int, host: str, package: Path, api: Api) -> None:
    """A run through a server that fails every third request in one way or another, to the verdict that it had."""
    chance = random.Random(seed)
    outcomes = {"": "SUCCEEDED", "gate": "FAILED", "serving": "FAILED"}
    refused_by = chance.choice(list(outcomes))
    error = {"": "", "gate": GATE, "serving": SERVING}[refused_by]
    api.states = [
        ("RUNNING", {"prepare": "RUNNING"}),
        (outcomes[refused_by], {"prepare": "SUCCEEDED", "verdict": outcomes[refused_by]}),
    ]
    api.logs = {"verdict": words(refused_by, error, f"round {seed}")}
    down_until = 0.0

    def fail(method: str, path: str) -> Failure:
        nonlocal down_until
        if time.monotonic() < down_until:
            return "before"
        drawn = chance.random()
        if drawn < 0.05:
            # A restart: nothing is answered for a while.
            down_until = time.monotonic() + 0.05
            return "before"
        if drawn < 0.1:
            return slowly(0.05)
        return {0: "before", 1: "after", 2: 500, 3: 503, 4: 429}.get(int(drawn * 20) - 2)

    before = len(api.runs)
    kubeflow = submission.Kubeflow(submission.Target(host, None, "flexunet", "mine"), 0.01)
    api.fail = fail
    told: list[str] = []
    version = kubeflow.upload(package)
    run_id = kubeflow.start(version, "same name", {})
    ended, refusal = kubeflow.follow(run_id, ["prepare", "verdict"], told.append), None
    try:
        found = kubeflow.words(ended.run, ["prepare", "verdict"], Path("/nowhere"))
        outcome.judge(ended, ["prepare", "verdict"], found, "link", told.append)
    except (ModelRefused, ServingRefused) as raised:
        refusal = raised
    api.fail = lambda method, path: None
    assert type(refusal) is {"": type(None), "gate": ModelRefused, "serving": ServingRefused}[refused_by]
    assert str(refusal or "") == error and told[-1] == f"round {seed}"
    assert len(api.runs) == before + 1, "a lost answer started a second run"
    assert len(api.pipelines[None]) == 1, "a lost answer uploaded a second version"


def test_a_server_that_is_away_when_the_words_are_asked_for_is_waited_for(
    api: Api, host: str, package: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than for a log that is gone: else a refusal would be told as a node's failure."""
    api.states = [("FAILED", {"prepare": "SUCCEEDED", "verdict": "FAILED"})]
    api.logs = {"verdict": REFUSED}
    asked: list[str] = []

    def fail(method: str, path: str) -> Failure:
        asked.extend([path] if path == "/k8s/pod/logs" else [])
        return 503 if "log" in path and len(asked) < 16 else None

    api.fail = fail
    monkeypatch.setattr(submission, "_LONGEST_LOG_PAUSE", 0.1)
    assert submit(package, host) == 2
    assert GATE in capfd.readouterr().err


@pytest.mark.parametrize("rounds", [range(20), pytest.param(range(20, 320), marks=pytest.mark.slow)], ids=len)
def test_no_run_is_lost_or_doubled_and_no_verdict_is_wrong_when_answers_get_lost(
    rounds: range, api: Api, host: str, package: Path
) -> None:
    for seed in rounds:
        answers_that_get_lost(seed, host, package, api)


def test_a_server_that_stays_away_ends_the_command_but_not_the_run(
    api: Api, host: str, package: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_module, "PATIENCE", 0.3)
    api.states = [("RUNNING", {"prepare": "RUNNING"})]
    api.fail = lambda method, path: 503 if api.polls else None
    assert submit(package, host) == 1
    printed, link = capfd.readouterr(), f"{host}/#/runs/details/r1"
    assert printed.err == f"error: {host}: Kubeflow answers 503: injected; the run goes on: {link}\n"
    assert f"{host}: Kubeflow answers 503: injected: asking again in 0 s" in printed.out
