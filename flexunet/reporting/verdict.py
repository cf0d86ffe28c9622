"""The outcome of a run on a page: a title, its colour, and what of it a reader must know first."""

from dataclasses import dataclass
from typing import Final, Literal

from flexunet.core.results.metrics import Metrics
from flexunet.core.results.serving import Serving
from flexunet.core.results.verdict import (
    ACCEPTED,
    ACCEPTED_THOUGH_REFUSED,
    REFUSED_BY_GATE,
    REFUSED_BY_SERVING,
    Verdict,
    is_accepted,
)

_TITLES: Final[dict[Verdict, str]] = {
    ACCEPTED: "Accepted",
    REFUSED_BY_GATE: "Refused by the gate",
    REFUSED_BY_SERVING: "Refused by the serving validator",
    ACCEPTED_THOUGH_REFUSED: "Refused by the gate, pushed all the same",
}


@dataclass(frozen=True)
class Headline:
    """`kind`: good, bad or warn; `title`: a few words; `reasons`: sentences, what to do about them last."""

    kind: Literal["good", "bad", "warn"]
    title: str
    reasons: list[str]


def headline(metrics: Metrics, serving: Serving | None) -> Headline:
    """From `metrics.json`, whose verdict it is, and `serving.json`, which knows what was rolled back since."""
    title, reasons = _TITLES[metrics["verdict"]], list(metrics["problems"])
    if metrics["next_step"]:
        reasons.append(f"Next: {metrics['next_step']}.")
    if not is_accepted(metrics["verdict"]):
        return Headline("bad", title, reasons)
    version, withdrawn = metrics["pushed_version"], serving.get("rolled_back") if serving else None
    if withdrawn is not None:
        again = f"A run does not push again what a person took back: flexunet rollback --to {withdrawn} brings it back."
        return Headline("warn", f"{title}, but rolled back as version {withdrawn}", [*reasons, again])
    if metrics["verdict"] == ACCEPTED:
        return Headline("good", "Accepted by the gate" if version is None else f"{title}: version {version}", reasons)
    return Headline("warn", title if version is None else f"{title} as version {version}", reasons)
