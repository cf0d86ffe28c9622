"""The outcome of a run in words: what was decided, and what of it a reader must know first."""

from dataclasses import dataclass
from typing import Any, Final

ACCEPTED: Final = "accepted"
REFUSED: Final = "refused"


@dataclass(frozen=True)
class Verdict:
    """`kind`: good, bad or warn; `title`: a few words; `reasons`: sentences."""

    kind: str
    title: str
    reasons: list[str]


def verdict(metrics: dict[str, Any], serving: dict[str, Any] | None) -> Verdict:
    """From `metrics.json` and `serving.json`."""
    failed = [check["words"] for check in metrics["gate"] if not check["passed"]]
    version = metrics["pushed_version"]
    withdrawn = serving.get("rolled_back") if serving else None
    if not metrics["blessed"]:
        if version is None:
            return Verdict("bad", "Refused by the gate", failed)
        return Verdict("warn", f"Refused by the gate, pushed all the same as version {version}", failed)
    if serving and not serving["blessed"]:
        return Verdict("bad", "Refused by the serving validator", list(serving["problems"]))
    if withdrawn is not None:
        reason = "A run does not push again what a person took back: flexunet rollback --to brings it back."
        return Verdict("warn", f"Accepted, but rolled back as version {withdrawn}", [reason])
    if version is None:
        return Verdict("good", "Accepted by the gate", [])
    return Verdict("good", f"Accepted: version {version}", [])
