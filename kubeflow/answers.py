"""What is read of the answers of Kubeflow's API: kfp's generated classes say of every field that it may be missing."""

from collections.abc import Sequence
from typing import Protocol


class Identified(Protocol):
    """What the server gave a name to and keeps the description of."""

    description: str | None


class Pod(Protocol):
    """One attempt at a task; the name is Argo's id of its node."""

    pod_name: str | None


class Task(Pod, Protocol):
    """What Kubeflow knows of a task, or of what it puts around one; `state` is None before it begins."""

    display_name: str | None
    state: str | None
    child_tasks: Sequence[Pod] | None


class RunDetails(Protocol):
    """The tasks of a run that has begun."""

    task_details: Sequence[Task] | None


class RunStatus(Protocol):
    """A state that a run was in."""

    state: str | None


class RunError(Protocol):
    """Why a run failed."""

    message: str | None


class KubeflowRun(Identified, Protocol):
    """A run; `state_history` is oldest first."""

    run_id: str
    state: str
    state_history: Sequence[RunStatus] | None
    error: RunError | None
    run_details: RunDetails | None


class Schedule(Identified, Protocol):
    """A recurring run; `service_account` is the one that its runs have."""

    recurring_run_id: str
    service_account: str | None
