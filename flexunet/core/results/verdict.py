"""What became of a model, decided here for the runner, the report, `flexunet runs` and readers of `metrics.json`."""

from collections.abc import Iterable
from typing import Final, Literal

Verdict = Literal["accepted", "refused_by_gate", "refused_by_serving", "accepted_though_refused"]

ACCEPTED: Final = "accepted"
REFUSED_BY_GATE: Final = "refused_by_gate"
REFUSED_BY_SERVING: Final = "refused_by_serving"
ACCEPTED_THOUGH_REFUSED: Final = "accepted_though_refused"

WORDS: Final[dict[str, str]] = {
    ACCEPTED: "accepted",
    REFUSED_BY_GATE: "refused by the gate",
    REFUSED_BY_SERVING: "refused by the serving validator",
    ACCEPTED_THOUGH_REFUSED: "refused by the gate, pushed all the same",
}
# What a person can do about it.
NEXT_STEPS: Final[dict[Verdict, str | None]] = {
    ACCEPTED: None,
    REFUSED_BY_GATE: (
        "look at the worst images in the report, then train on more images or longer; a bound changed in [gate] runs "
        "only the Evaluator and what follows it again"
    ),
    REFUSED_BY_SERVING: (
        "mend what the problems name, or change a bound in [serving], and run again: the training comes from the cache"
    ),
    ACCEPTED_THOUGH_REFUSED: "`flexunet rollback` serves the model before it again",
}


def decide(by_gate: bool, by_serving: bool, overruled: bool) -> Verdict:
    """The verdict on a model.

    Args:
      by_gate: the gate accepted it.
      by_serving: so did every serving validator that there is.
      overruled: a person gave a reason to push it although the gate refuses it; nobody can overrule the others.
    """
    if not by_gate and not overruled:
        return REFUSED_BY_GATE
    if not by_serving:
        return REFUSED_BY_SERVING
    return ACCEPTED if by_gate else ACCEPTED_THOUGH_REFUSED


def is_accepted(verdict: Verdict) -> bool:
    """Whether the model may be pushed."""
    return verdict in (ACCEPTED, ACCEPTED_THOUGH_REFUSED)


def problems_of(verdict: Verdict, failed_checks: Iterable[str], of_serving: Iterable[str]) -> list[str]:
    """Why the model was refused, in sentences; none for one that was accepted."""
    if verdict == ACCEPTED:
        return []
    return list(of_serving if verdict == REFUSED_BY_SERVING else failed_checks)
