"""The outcome of a run on a page: a title, its colour, and what of it a reader must know first."""

from dataclasses import dataclass
from typing import Literal

from flexunet.core.results.metrics import Metrics
from flexunet.core.results.serving import Serving
from flexunet.core.results.verdict import ACCEPTED, WORDS, is_accepted


@dataclass(frozen=True)
class Headline:
    """`kind`: good, bad or warn; `title`: a few words; `reasons`: sentences, what to do about them last."""

    kind: Literal["good", "bad", "warn"]
    title: str
    reasons: list[str]


def headline(metrics: Metrics, serving: Serving | None) -> Headline:
    """From `metrics.json`, whose verdict it is, and `serving.json`, which knows what was rolled back since."""
    title, reasons = WORDS[metrics["verdict"]].capitalize(), list(metrics["problems"])
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
