"""`flexunet clean`: frees what old runs left, and nothing that somebody still needs.

TFX's cache gives an artifact again while ML Metadata calls it live. So what goes is first marked as deleted there, all
outputs of its execution with it, and only then taken from the disk: killed in between, no run reads half a folder, and
the next `clean` removes the rest. What is kept is not touched in ML Metadata either: its record is part of cache keys.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ml_metadata.proto import metadata_store_pb2

from flexunet.core.root import Root
from flexunet.history.database import open_store
from flexunet.history.pushes import (
    PUSHED,
    PUSHED_COMPARABLE,
    PUSHED_MODEL,
    PUSHED_MODEL_ID,
    PUSHED_SHA256,
    RESTORED_MILLISECONDS,
    ROLLED_BACK,
    last_pushed,
)
from flexunet.history.store import Artifact, Execution, History, Run, read_history
from flexunet.serving.versions import pushed_hash, read_provenance, versions

# The model of a push and what says why it was pushed.
_PUSHER_READS: Final = ("model", "model_blessing", "infra_blessing", "server_blessing", "evaluation")
_SYSTEM: Final = ".system/executor_execution"


@dataclass(frozen=True)
class Freed:
    """A folder that goes: which node's, of which run, and its size in bytes."""

    node: str
    run: str | None
    path: Path
    bytes: int


@dataclass(frozen=True)
class Plan:
    """`freed` goes; `marked`: the artifacts to be called deleted; `kept`: bytes of what stays."""

    freed: list[Freed]
    marked: list[int]
    kept: int

    @property
    def bytes(self) -> int:
        """What is freed."""
        return sum(part.bytes for part in self.freed)


def plan_cleaning(root: Path, keep: int) -> Plan:
    """What `clean` would free. Kept is:

    - whatever the newest `keep` runs that came to their end read or wrote, and every run since;
    - the model, evaluation, blessings and report of each version in `serving_model`;
    - the same of each baseline, the newest push that was not rolled back of each set of classes.

    Raises:
      UserError: no run was ever started in `root`.
    """
    history = read_history(root)
    runs = {run.run_id: run for run in _kept_runs(history, keep)}
    needed = _needed(history, runs.values(), Root(root).serving)
    freed: list[Freed] = []
    marked: list[int] = []
    kept = 0
    for execution in _executions(history):
        artifacts = [artifact for outputs in execution.outputs.values() for artifact in outputs]
        folders = _folders(execution, root)
        run = history.run_of.get(execution.id)
        if (run and run.run_id in runs) or any(artifact.id in needed for artifact in artifacts):
            kept += sum(_size(folder) for folder in folders)
            continue
        marked += [artifact.id for artifact in artifacts if artifact.is_live]
        freed += [Freed(execution.node, run.run_id if run else None, folder, _size(folder)) for folder in folders]
    return Plan(freed, marked, kept)


def free(root: Path, plan: Plan) -> None:
    """Marks, then removes. The caller holds the lock of `root`, since before the plan was made."""
    if plan.marked:
        store = open_store(root)
        artifacts = store.get_artifacts_by_id(plan.marked)
        for artifact in artifacts:
            artifact.state = metadata_store_pb2.Artifact.DELETED
        store.put_artifacts(artifacts)
    for part in plan.freed:
        shutil.rmtree(part.path)


def _kept_runs(history: History, keep: int) -> list[Run]:
    """The newest `keep` that came to their end, and every run since."""
    ends = [index for index, run in enumerate(history.runs) if run.report is not None]
    return history.runs[: ends[keep - 1] + 1] if len(ends) >= keep else history.runs


def _needed(history: History, runs: Iterable[Run], serving: Path) -> set[int]:
    """Ids of artifacts."""
    # A push is a few bytes and what resolvers look at; it stays whatever becomes of its model.
    needed = {push.id for push in history.of_kind(PUSHED_MODEL)}
    for execution in (execution for run in runs for execution in run.nodes.values()):
        touched = (*execution.inputs.values(), *execution.outputs.values())
        needed |= {artifact.id for artifacts in touched for artifact in artifacts}
    for push in _current_pushes(history, serving):
        needed |= _evidence(history, push)
    return needed | _unrecorded(history, serving)


def _current_pushes(history: History, serving: Path) -> list[Artifact]:
    """Pushes whose model is a version that is there, and those that are a baseline."""
    there = {pushed_hash(serving / str(number)) for number in versions(serving)}
    pushes = [push for push in history.of_kind(PUSHED_MODEL) if push.properties.get(PUSHED) == 1]
    pushes.sort(key=_last_pushed, reverse=True)
    baselines: dict[str, Artifact] = {}
    for push in pushes:
        if push.properties.get(ROLLED_BACK) != 1:
            baselines.setdefault(push.properties[PUSHED_COMPARABLE], push)
    ids = {push.id for push in baselines.values()}
    return [push for push in pushes if push.properties[PUSHED_SHA256] in there or push.id in ids]


def _last_pushed(push: Artifact) -> tuple[int, int]:
    return last_pushed(push.id, push.created, push.properties.get(RESTORED_MILLISECONDS))


def _evidence(history: History, push: Artifact) -> set[int]:
    """The model of a push and what says why it was pushed."""
    needed = _read_by(history.maker[push.id], _PUSHER_READS) | {push.properties[PUSHED_MODEL_ID]}
    trainer = history.maker.get(push.properties[PUSHED_MODEL_ID])
    if trainer is not None:
        # A warm start asks them whether the model knows the data already.
        needed |= _read_by(trainer, ("examples", "base_model"))
    runs = [run for run in history.runs if run.output("Pusher", "pushed_model") == push]
    return needed | {run.report.id for run in runs if run.report is not None}


def _unrecorded(history: History, serving: Path) -> set[int]:
    """What made versions whose Pusher failed after they were there, such as while it copied them to a store."""
    models = {read_provenance(serving / str(number)).get("model_uri") for number in versions(serving)} - {None}
    needed: set[int] = set()
    for run in history.runs:
        pusher = run.nodes.get("Pusher")
        if pusher is not None and not pusher.succeeded and _model_path(pusher) in models:
            needed |= _read_by(pusher, _PUSHER_READS)
    return needed


def _model_path(pusher: Execution) -> str | None:
    model = pusher.input("model")
    return model.uri if model else None


def _read_by(execution: Execution, keys: Iterable[str]) -> set[int]:
    """Ids of the artifacts of some inputs."""
    return {artifact.id for key in keys for artifact in execution.inputs.get(key, [])}


def _executions(history: History) -> list[Execution]:
    """Executions that ran, each once, the oldest first: what came from the cache made nothing."""
    ran = {execution.id: execution for execution in history.maker.values()}
    ran |= {e.id: e for run in history.runs for e in run.nodes.values() if not e.succeeded}
    return [ran[key] for key in sorted(ran)]


def _folders(execution: Execution, root: Path) -> list[Path]:
    """An execution's outputs, as TFX lays them: `node/output/execution`, also of one that was killed."""
    folders = sorted((root / execution.node).glob(f"*/{execution.id}"))
    return [folder for folder in (*folders, root / execution.node / _SYSTEM / str(execution.id)) if folder.is_dir()]


def _size(path: Path) -> int:
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
