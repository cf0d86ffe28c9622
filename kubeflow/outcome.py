"""How a run on Kubeflow ended, as far as its API tells.

No exit code of ours leaves a pod: Kubeflow's launcher, which starts us, ends with 1 whatever we ended with, and the API
copies no message of a container. What is left is which task failed, what the verdict's pod printed, and what it wrote
on the volume.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from flexunet.core.errors import Interrupted, ModelRefused, NodeFailed, ServingRefused
from kubeflow.answers import KubeflowRun, Task
from kubeflow.files import Verdict
from kubeflow.package import PREPARE, VERDICT, task_name

Tell = Callable[[str], None]

_ERROR: Final = "error: "
# Argo's template of a container that Kubeflow does not retry.
_TEMPLATE: Final = "system-container-impl"
_ENDED: Final = ("SUCCEEDED", "FAILED")
_CANCELED: Final = ("CANCELING", "CANCELED")
_GOING_ON: Final = ("PENDING", "RUNNING")
_REFUSALS: Final = {"gate": ModelRefused, "serving": ServingRefused}


@dataclass(frozen=True)
class Ended:
    """A run at its end, and the state that it was seen in before, "" where it had ended already."""

    run: KubeflowRun
    before: str


@dataclass(frozen=True)
class Words:
    """What the step `step` left: the verdict's document, or the errors in its log; neither where none could be had."""

    step: str
    verdict: Verdict | None = None
    errors: tuple[str, ...] = ()

    @property
    def found(self) -> bool:
        return self.verdict is not None or bool(self.errors)


def tasks(run: KubeflowRun, names: Collection[str]) -> dict[str, Task]:
    """The tasks of the package by name, without what Kubeflow puts around them: drivers, executors, their attempts."""
    return {name: detail for name, detail in _details(run).items() if name in names}


def telling_step(run: KubeflowRun, names: Collection[str]) -> str | None:
    """The step whose words say how the run ended: the verdict, or `prepare`, which refuses what it was started with.

    Nodes are retried: what one of them said last is in the log of one of several pods.
    """
    found = tasks(run, names)
    for step in (task_name(VERDICT), task_name(PREPARE)):
        state = found[step].state if step in found else ""
        if state == "FAILED" or (step == task_name(VERDICT) and state in _ENDED):
            return step
    return None


def words_of(step: str, log: str) -> Words:
    """What of a pod's log is ours; beside it write Kubeflow's launcher, Argo's executor, absl and TensorFlow."""
    verdict = Verdict.found_in(log) if step == task_name(VERDICT) else None
    lines = [line.removeprefix(_ERROR) for line in log.splitlines() if line.startswith(_ERROR)]
    return Words(step, verdict, tuple(lines))


def pod_name(node: str) -> str:
    """Name of the pod of a step that is not retried, from Argo's id of its node, which names the pod up to Argo 3.3."""
    workflow, _, number = node.rpartition("-")
    return f"{workflow}-{_TEMPLATE}-{number}"


def judge(ended: Ended, names: Collection[str], words: Words | None, link: str, tell: Tell) -> None:
    """Tells the scores and the gate's words; where they could not be had, where to read them.

    Raises:
      Interrupted: a person ended the run.
      ModelRefused, ServingRefused: the verdict failed the run, in its words.
      NodeFailed: something else did.
    """
    run = ended.run
    for line in words.verdict.lines if words and words.verdict else ():
        tell(line)
    if run.state == "SUCCEEDED":
        if words is None or not words.found:
            tell(f"the words of {task_name(VERDICT)} cannot be had from here: {_where(link)}")
        return
    failed = [name for name, task in tasks(run, names).items() if task.state == "FAILED"]
    if _was_ended_by_somebody(ended):
        at = f" at {', '.join(failed)}" if failed else ""
        raise Interrupted(f"somebody ended the run on Kubeflow{at}: {link}", resumes=False)
    if failed == [task_name(VERDICT)] and words and words.verdict and words.verdict.refused_by:
        raise _REFUSALS[words.verdict.refused_by](words.verdict.error)
    raise NodeFailed(f"the run ended as {run.state.lower()}: {_why(run, failed, words, link)}")


def _why(run: KubeflowRun, failed: list[str], words: Words | None, link: str) -> str:
    """Which step failed and what it said, in one line."""
    parts = [f"{name} failed" for name in failed or _failed_drivers(run)] or ["Kubeflow does not say at which step"]
    if words is not None and words.step in failed:
        said = [words.verdict.error] if words.verdict and words.verdict.error else list(words.errors)
        parts += said if words.found else [f"its words cannot be had from here: {_where(link)}"]
    message = getattr(run.error, "message", None)
    return "; ".join([*parts, *([message] if message else []), f"logs: {link}"])


def _where(link: str) -> str:
    return f"read them at {link} or with `kubectl logs` of its pod"


def _failed_drivers(run: KubeflowRun) -> list[str]:
    """Kubeflow's own pods before a task, called TASK-driver: where one fails, the task has never begun."""
    return [name for name, detail in _details(run).items() if name.endswith("-driver") and detail.state == "FAILED"]


def _was_ended_by_somebody(ended: Ended) -> bool:
    """Kubeflow calls a terminated run CANCELING, and FAILED once its pods are gone; it may have been retried later.

    Its history has CANCELING only if Argo's workflow was looked at in between: where no pod was to be ended it was not.
    """
    run = ended.run
    if ended.before in _CANCELED:
        return True
    for status in reversed(run.state_history or []):
        if status.state in _CANCELED:
            return True
        if status.state in _GOING_ON:
            break
    return run.state in _CANCELED


def _details(run: KubeflowRun) -> dict[str, Task]:
    """Details by name: as tasks are called or, in some versions, shown."""
    details = run.run_details.task_details if run.run_details else []
    return {task_name(detail.display_name): detail for detail in details or [] if detail.display_name}
