"""`flexunet runs`: a line for each run, from ML Metadata."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Literal

from flexunet.core.errors import UserError
from flexunet.core.features import ACCEPTED_REFUSED
from flexunet.core.files import JsonObject
from flexunet.core.results.verdict import NEXT_STEPS, Verdict, decide
from flexunet.core.root import HEADLINE_PROPERTIES, PROBLEMS_PROPERTY
from flexunet.history.pushes import PUSHED, PUSHED_SHA256, ROLLED_BACK
from flexunet.history.store import History, Run
from flexunet.serving.versions import pushed_hash, served_version

# Of TFX's Pusher, and of its blessings.
PUSHED_VERSION: Final = "pushed_version"
BLESSED: Final = "blessed"
FAILED: Final = "failed"
INTERRUPTED: Final = "interrupted"
RUNNING: Final = "running"
_NEXT_STEPS: Final[dict[str, str | None]] = {
    **NEXT_STEPS,
    FAILED: "read the log that the command named, mend it and run again: finished nodes come from the cache",
    INTERRUPTED: "run again: finished nodes come from the cache, and a training goes on after its last finished epoch",
}


@dataclass(frozen=True)
class RunRow:
    """One run.

    Attributes:
      run_id: as ML Metadata knows it.
      started: ISO 8601, with the time zone of this machine.
      seconds: from the start of the first node to the end of the last.
      verdict: that of `metrics.json`; or failed, interrupted, running.
      problems: why the model was refused or which node failed, in sentences.
      next_step: what a person can do about it, or None.
      failed: the nodes that did.
      foreground_dice, foreground_dice_interval, examples: as in `metrics.json`; None without a report.
      pushed_version: the number under which its model was pushed, then or by an earlier run.
      rolled_back: that push was rolled back.
      served_as: the number under which that model is served now, or None.
      freed: its report was cleaned away.
    """

    run_id: str
    started: str
    seconds: float
    verdict: Verdict | Literal["failed", "interrupted", "running"]
    problems: list[str]
    next_step: str | None
    failed: list[str]
    foreground_dice: float | None
    foreground_dice_interval: list[float] | None
    examples: int | None
    pushed_version: int | None
    rolled_back: bool
    served_as: int | None
    freed: bool

    def as_json(self) -> JsonObject:
        """Plain values."""
        return asdict(self)


def run_rows(history: History, serving: Path, is_running: bool) -> list[RunRow]:
    """Newest first.

    Args:
      history: of the folder.
      serving: the folder of the versions.
      is_running: whether a run holds the folder now: then the newest, unless it has ended, is that one.
    """
    version = served_version(serving)
    served = {pushed_hash(version) or "": int(version.name)} if version else {}
    rows = [_row(run, served) for run in history.runs if run.nodes]
    if is_running and rows and rows[0].verdict == INTERRUPTED:
        rows[0] = replace(rows[0], verdict=RUNNING, next_step=None)
    return rows


def find_run(history: History, name: str) -> Run:
    """The run whose id is `name` or begins with it.

    Raises:
      UserError: there is none, there are several, or it has no report.
    """
    found = [run for run in history.runs if run.run_id == name] or [
        run for run in history.runs if run.run_id.startswith(name)
    ]
    if len(found) != 1:
        what = "no run" if not found else f"{len(found)} runs"
        raise UserError(f"{name}: {what} of this id, expected one of those that `flexunet runs` lists, or a folder")
    [run] = found
    if run.report is None or not Path(run.report.uri).is_dir():
        why = "it did not come to its end" if run.report is None else "`flexunet clean` freed it"
        raise UserError(f"run {run.run_id} has no report: {why}; choose another, or run it again")
    return run


def verdict_of(run: Run) -> Verdict | None:
    """What became of the model of a run; None where the run did not come to its end."""
    if run.report is None:
        return None
    servers = [node for node in ("ServingValidator", "InfraValidator") if node in run.nodes]
    by_serving = all(_is_blessed(run, node) for node in servers)
    overruled = bool(run.nodes["Pusher"].properties.get(ACCEPTED_REFUSED))
    return decide(_is_blessed(run, "Evaluator"), by_serving, overruled)


def _row(run: Run, served: dict[str, int]) -> RunRow:
    started = min(execution.started for execution in run.nodes.values())
    ended = max(execution.ended for execution in run.nodes.values())
    value, lower, upper, examples = (
        None if run.report is None else run.report.properties.get(name) for name in HEADLINE_PROPERTIES
    )
    failed = [name for name, execution in run.nodes.items() if execution.state == "FAILED"]
    verdict, problems = (FAILED, [f"{name} failed" for name in failed]) if failed else _ended(run)
    pushed = run.output("Pusher", "pushed_model")
    facts = pushed.properties if pushed and pushed.properties.get(PUSHED) == 1 else {}
    return RunRow(
        run_id=run.run_id,
        started=started.isoformat(timespec="seconds"),
        seconds=round((ended - started).total_seconds(), 1),
        verdict=verdict,
        problems=problems,
        next_step=_NEXT_STEPS[verdict],
        failed=failed,
        foreground_dice=value,
        foreground_dice_interval=None if lower is None or upper is None else [lower, upper],
        examples=None if examples is None else int(examples),
        pushed_version=int(facts[PUSHED_VERSION]) if facts else None,
        rolled_back=facts.get(ROLLED_BACK) == 1,
        served_as=served.get(facts.get(PUSHED_SHA256, "unknown")),
        freed=run.report is not None and not run.report.is_live,
    )


def _ended(run: Run) -> tuple[Verdict | Literal["interrupted"], list[str]]:
    """How a run ended of which no node failed, and why its model was refused."""
    verdict = verdict_of(run)
    if run.report is None or verdict is None:
        return INTERRUPTED, []
    return verdict, json.loads(run.report.properties.get(PROBLEMS_PROPERTY, "[]"))


def _is_blessed(run: Run, node: str) -> bool:
    blessing = run.output(node, "blessing")
    return blessing is not None and blessing.properties.get(BLESSED) == 1
