"""How a run on Kubeflow ended, as far as its API tells.

No exit code of ours leaves a pod: Kubeflow's launcher, which starts us, ends with 1 whatever we ended with, and the API
copies no message of the container. What is left is which task failed, and what the verdict printed.
"""

import re
from collections.abc import Callable, Collection
from typing import Any, Final

from flexunet.core.errors import ModelRefused, NodeFailed, ServingRefused
from kubeflow.package import VERDICT, task_name

Tell = Callable[[str], None]

_ERROR: Final = "error: "
# Lines of Kubeflow's launcher and of Argo's executor, which write to the same log.
_OTHERS: Final = re.compile(r'[IWEF]\d{4} \d\d:\d\d:|time="[^"]*" level=')
# Argo's template of a container that Kubeflow does not retry.
_TEMPLATE: Final = "system-container-impl"


def tasks(run: Any, names: Collection[str]) -> dict[str, Any]:
    """The tasks of the package by name, without what Kubeflow puts around them: drivers, executors, their attempts."""
    details = run.run_details.task_details if run.run_details else []
    # As they are called or, in some versions, shown.
    called = {task_name(detail.display_name): detail for detail in details or [] if detail.display_name}
    return {name: detail for name, detail in called.items() if name in names}


def ended_verdict(run: Any, names: Collection[str]) -> Any:
    """The verdict's task, if it ran to its end; a run that failed before it has none."""
    verdict = tasks(run, names).get(task_name(VERDICT))
    return verdict if verdict is not None and verdict.state in ("SUCCEEDED", "FAILED") else None


def pod_name(node: str) -> str:
    """Name of the verdict's pod, from Argo's id of its node, WORKFLOW-HASH, which names the pod up to Argo 3.3 only."""
    workflow, _, number = node.rpartition("-")
    return f"{workflow}-{_TEMPLATE}-{number}"


def judge(run: Any, names: Collection[str], verdict_log: str | None, link: str, tell: Tell) -> None:
    """Tells the scores and the gate's words; where the log is empty, where to read them. None: there was no verdict.

    Raises:
      ModelRefused, ServingRefused: the verdict failed the run, in these words.
      NodeFailed: something else did, or somebody ended the run.
    """
    verdict = task_name(VERDICT)
    errors = _tell_words(verdict_log or "", tell)
    if verdict_log == "":
        tell(f"the log of {verdict} cannot be had from here: read it at {link} or with `kubectl logs` of its pod")
    if run.state == "SUCCEEDED":
        return
    failed = [name for name, task in tasks(run, names).items() if task.state == "FAILED"]
    if failed == [verdict]:
        _raise_refusal(errors)
    words = "; ".join([*(f"{name} failed" for name in failed), *errors])
    raise NodeFailed(f"the run ended as {run.state.lower()}{f': {words}' if words else ''}; logs: {link}")


def _tell_words(log: str, tell: Tell) -> list[str]:
    """Tells what the container printed; the errors among it, without their mark."""
    lines = [line for line in log.strip().splitlines() if not _OTHERS.match(line)]
    for line in lines:
        if not line.startswith(_ERROR):
            tell(line)
    return [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]


def _raise_refusal(errors: list[str]) -> None:
    for refusal in (ModelRefused, ServingRefused):
        if errors and errors[0].startswith(refusal.WORDS):
            raise refusal("\n".join(errors))
