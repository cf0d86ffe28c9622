"""A package's whole life on a cluster, in order: a run whose Trainer is killed twice, and a refused one.

All containers are forks of one interpreter, since importing TFX costs each process ten seconds; test_processes.py
starts each as a process of its own.
"""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fork_server import ForkServer
from kfp_cluster import Cluster, Process, Run, has_ended, kill
from kfp_package import Package
from postgres_server import Server
from small_run import EPOCHS
from waiting import epochs_in, wait_until

from flexunet.cli import main
from flexunet.history.database import DATABASE_VARIABLES
from flexunet.serving.versions import versions

# Beside other work the fixture takes more than a test's default.
pytestmark = pytest.mark.timeout(3000)

NODES = {
    *("record-gen", "record-schema", "statistics-gen", "example-validator", "previous-span-resolver", "drift-reporter"),
    *("mask-validator", "transform", "trainer", "baseline-resolver", "evaluator", "serving-validator", "pusher"),
    "reporter",
}
RESOLVERS = {"previous-span-resolver", "baseline-resolver"}
AFTER_TRAINER = {"trainer", "evaluator", "serving-validator", "pusher", "reporter"}


@dataclass
class Story:
    """All runs, and what was on the volume after each."""

    root: Path
    first: Run
    refused: Run
    metrics: dict[str, dict[str, Any]]
    versions: dict[str, list[int]]
    killed: list[tuple[int, int]]


@pytest.fixture(scope="module")
def story(cluster: Cluster, fork_server: ForkServer, mount: Path) -> Story:
    root, killed = mount / "runs" / "main", list[tuple[int, int]]()
    leave_open_to_everybody(root / "serving_model-of-before")
    metrics: dict[str, dict[str, Any]] = {}
    pushed: dict[str, list[int]] = {}

    def kill_twice(task: str, attempt: int, process: Process) -> None:
        if task == "trainer" and attempt < 2:
            rows = wait_for_epochs(root, 4 * (attempt + 1), process)
            kill(process, (signal.SIGTERM, signal.SIGKILL)[attempt])
            killed.append((attempt, rows))

    def noted(name: str, run: Run, failed: tuple[str, ...] = ()) -> Run:
        assert run.failed == list(failed), logs(run)
        report = root / "report" / "metrics.json"
        metrics[name] = json.loads(report.read_text()) if report.is_file() else {}
        pushed[name] = versions(root / "serving_model")
        return run

    first = noted("first", cluster.run(start=fork_server.start, watch=kill_twice))
    # Another model, under a gate that none passes.
    worse = {"overrides": ["train.epochs=1", "gate.min_foreground_dice=1.0"]}
    refused = noted("refused", cluster.run(worse, start=fork_server.start), ("verdict",))
    return Story(root, first, refused, metrics, pushed, killed)


def leave_open_to_everybody(folder: Path) -> None:
    """As runs of an earlier version did."""
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").touch()
    for path in (folder, folder / "saved_model.pb"):
        path.chmod(path.stat().st_mode | 0o666)


def wait_for_epochs(root: Path, count: int, process: Process) -> int:
    """Epochs in the newest history.csv, once they are that many."""

    def trained() -> int:
        return max(map(epochs_in, root.glob("Trainer/model_run/*/history.csv")), default=0)

    wait_until(lambda: trained() >= count, lambda: has_ended(process))
    return trained()


def logs(run: Run) -> str:
    return "\n\n".join(f"{task}: {run.log(task)[-3000:]}" for task in run.failed)


def test_every_container_ran_and_the_first_run_passes_the_gate(story: Story) -> None:
    assert set(story.first.attempts) == {*NODES, "prepare", "verdict"}
    verdict = story.first.log("verdict")
    assert "passed: foreground Dice is" in verdict
    assert "accepted; the model is version 1" in verdict
    assert story.versions["first"] == [1]
    assert story.metrics["first"]["run_id"] == story.first.run_id


def test_only_the_killed_step_was_started_again(story: Story) -> None:
    attempts = {task: len(attempts) for task, attempts in story.first.attempts.items()}
    assert attempts == {**dict.fromkeys(attempts, 1), "trainer": 3}
    assert [attempt for attempt, _ in story.killed] == [0, 1]


def test_a_preempted_trainer_says_so_and_fails(story: Story) -> None:
    terminated, killed, _ = story.first.attempts["trainer"]
    assert terminated.child_exit_code == 128 + signal.SIGTERM
    assert "stopped by SIGTERM: a retry goes on" in terminated.text
    assert killed.child_exit_code == -signal.SIGKILL


def test_a_retried_trainer_goes_on_with_the_epoch_after_its_checkpoint(story: Story) -> None:
    _, second, third = story.first.attempts["trainer"]
    assert "training goes on with epoch" not in story.first.attempts["trainer"][0].text
    for attempt, (_, epochs) in zip((second, third), story.killed, strict=True):
        resumed = int(attempt.text.partition("training goes on with epoch ")[2].split()[0])
        # The checkpoint of an epoch is written when the next begins.
        assert epochs <= resumed <= epochs + 2
    facts = json.loads((story.root / "serving_model" / "1" / "assets.extra" / "training.json").read_text())
    assert facts["epochs"] == EPOCHS
    history = (story.root / "report" / "training" / "history.csv").read_text().splitlines()
    assert history[0].startswith("epoch")


def test_what_a_killed_attempt_left_is_removed(story: Story) -> None:
    assert "removing what an earlier attempt left" in story.first.attempts["trainer"][1].text


def test_changed_settings_are_measured_against_the_pushed_model(story: Story) -> None:
    """What comes before them is cached."""
    ran = {task for task in NODES - RESOLVERS if " cached " not in story.refused.log(task)}
    assert ran == AFTER_TRAINER and all(" done " in story.refused.log(task) for task in ran)
    metrics, before = story.metrics["refused"], story.metrics["first"]
    assert metrics["baseline"]["foreground_dice"] == pytest.approx(before["foreground_dice"])
    assert "foreground_dice against baseline" in [check["check"] for check in metrics["gate"]]


def test_a_refused_model_is_not_pushed_and_fails_the_run_with_the_gates_words(story: Story) -> None:
    assert story.refused.failed == ["verdict"]
    [attempt] = story.refused.attempts["verdict"]
    assert (attempt.child_exit_code, attempt.exit_code) == (2, 1)
    assert "FAILED: foreground Dice is" in attempt.text
    assert "error: the gate refused the model, nothing was pushed: foreground Dice is" in attempt.text
    assert story.versions["refused"] == [1]
    assert story.metrics["refused"]["pushed_version"] is None


def test_the_metadata_is_in_postgresql_and_nowhere_else(story: Story, database_server: Server, mount: Path) -> None:
    [[executions]] = database_server.ask("metadata", "SELECT count(*) FROM execution")
    assert int(executions) == 2 * len(NODES)
    assert list(mount.rglob("metadata.db*")) == []


def test_nobody_else_may_write_or_read_what_the_runs_wrote(story: Story) -> None:
    modes = {path: path.stat().st_mode for path in story.root.rglob("*")}
    assert len(modes) > 200
    assert [path for path, mode in modes.items() if mode & 0o027] == []
    before = story.root / "serving_model-of-before"
    assert modes[before] & 0o777 == 0o750 and modes[before / "saved_model.pb"] & 0o777 == 0o640
    assert f"{story.root}: everybody could write 2 paths, now the runs' user alone" in story.first.log("prepare")
    assert "everybody" not in story.refused.log("prepare")


def test_the_commands_that_look_back_work_on_a_clusters_root(
    story: Story, cluster: Cluster, mount: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for key, value in cluster.secrets["flexunet-metadata"].items():
        monkeypatch.setenv(DATABASE_VARIABLES[key], value)

    def answer(*command: str) -> Any:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.main([*command, "--json"])
        assert not ended.value.code
        return json.loads(capfd.readouterr().out)

    rows = answer("runs", "--root", str(story.root))
    ids = [run.run_id for run in (story.refused, story.first)]
    assert [row["run_id"] for row in rows] == ids
    assert [row["verdict"] for row in rows] == ["refused_by_gate", "accepted"]
    assert [row["pushed_version"] for row in rows] == [None, 1]
    found = answer("lineage", str(story.root / "serving_model" / "1"))
    assert found["run"] == story.first.run_id and found["intact"] and "127.0.0.1" in found["source"]
    plan = answer("clean", "--root", str(story.root), "--keep", "1", "--dry-run")
    # The pushed model is needed, and what made it.
    assert plan["bytes_kept"] > plan["bytes"]
    assert answer("runs", "--root", str(story.root.with_name("another"))) == []
    # What the job of drift asks: which records made the version, and that the volume still has them.
    (mount / "watched").mkdir()
    drift = answer("live", "drift", str(story.root), "--watched", str(mount / "watched"))
    assert drift["version"] == 1 and drift["reference_images"] > 0 and drift["sampled"] == 0


def test_no_credential_reaches_the_volume_or_a_log(story: Story, cluster: Cluster, mount: Path) -> None:
    password = cluster.secrets["flexunet-metadata"]["password"]
    texts = [*mount.glob("runs/main/kubeflow/*/*"), *cluster.folder.rglob("log")]
    assert len(texts) > 2 * len(NODES)
    assert [path for path in texts if password in path.read_text(errors="replace")] == []


def test_a_node_that_is_done_is_left_alone_by_a_retry(
    story: Story, cluster: Cluster, fork_server: ForkServer, database_server: Server
) -> None:
    before = database_server.ask("metadata", "SELECT id, last_known_state FROM execution ORDER BY id")
    for task in ("transform", "baseline-resolver", "pusher"):
        attempt = cluster.attempt(story.first, task, 9, {}, fork_server.start)
        assert attempt.exit_code == 0, attempt.text
        assert " 0.0 s" in attempt.text
    assert database_server.ask("metadata", "SELECT id, last_known_state FROM execution ORDER BY id") == before


def test_a_node_of_another_run_is_told_that_nothing_was_prepared(
    story: Story, cluster: Cluster, fork_server: ForkServer
) -> None:
    attempt = cluster.attempt(Run("another"), "transform", 0, {}, fork_server.start)
    assert attempt.child_exit_code == 1
    assert "error: " in attempt.text and "expected what the step prepare writes" in attempt.text


@pytest.mark.parametrize("attempt", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 2))])
def test_runs_that_start_at_once_on_an_empty_database_do_no_harm(
    attempt: int, package: Package, cluster: Cluster, database_server: Server, fork_server: ForkServer, tmp_path: Path
) -> None:
    empty = database_server.create_database(f"empty-{attempt}")
    there = Cluster(package, {"flexunet-metadata": empty}, cluster.volumes, tmp_path, cluster.image_environment)
    values = {"data": "records", "span": 0, "overrides": [], "accept_refused": ""}
    runs = [Run(f"race-{attempt}-{number}") for number in range(2)]
    with ThreadPoolExecutor(2) as pool:
        starts = [pool.submit(there.attempt, run, "prepare", 0, values, fork_server.start) for run in runs]
        for start in starts:
            assert start.result().exit_code == 0, start.result().text
    types = database_server.ask(empty["database"], "SELECT name, count(*) FROM type GROUP BY name, type_kind")
    assert len(types) > 20 and {count for _, count in types} == {"1"}
    contexts = database_server.ask(empty["database"], "SELECT name, count(*) FROM context GROUP BY name, type_id")
    assert {count for _, count in contexts} == {"1"} and {run.run_id for run in runs} <= {name for name, _ in contexts}


@pytest.mark.slow
def test_an_unchanged_run_is_cached_and_pushes_nothing(story: Story, cluster: Cluster, fork_server: ForkServer) -> None:
    """As TFX's launcher decides it here and on one machine, where tests/e2e has such runs."""
    again = cluster.run(start=fork_server.start)
    assert again.failed == [], logs(again)
    for task in NODES - RESOLVERS:
        assert " cached " in again.log(task), task
    assert versions(story.root / "serving_model") == [1]
    metrics = json.loads((story.root / "report" / "metrics.json").read_text())
    assert metrics["run_id"] == again.run_id
    assert {**metrics, "run_id": None} == {**story.metrics["first"], "run_id": None}


@pytest.mark.slow
def test_a_better_model_becomes_the_next_version_and_a_stricter_gate_judges_it_from_the_cache(
    story: Story, cluster: Cluster, fork_server: ForkServer
) -> None:
    longer = [f"train.epochs={EPOCHS + 4}"]
    better = cluster.run({"overrides": longer}, start=fork_server.start)
    assert better.failed == [], logs(better)
    assert "accepted; the model is version 2" in better.log("verdict")
    assert versions(story.root / "serving_model") == [1, 2]
    stricter = cluster.run({"overrides": [*longer, "gate.min_foreground_dice=1.0"]}, start=fork_server.start)
    assert stricter.failed == ["verdict"], logs(stricter)
    assert " cached " in stricter.log("trainer") and " done " in stricter.log("evaluator")
    assert versions(story.root / "serving_model") == [1, 2]
