"""What the report shows of a search for better settings: its trials in a table, and the best so far."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from flexunet.core.config.section import Scalar
from flexunet.core.results.tuning import Trial, Tuning
from flexunet.reporting.charts import LineChart, Series, line_chart


@dataclass(frozen=True)
class SearchView:
    """Ready for the template: the best trials first, those that failed last."""

    keys: list[str]
    rows: list[Trial]
    best: int
    seconds: float
    budget: float
    chart: LineChart


def view(tuning: Tuning | None) -> SearchView | None:
    """None where there was no search."""
    if tuning is None:
        return None
    trials = tuning["trials"]
    scores = [trial["foreground_dice"] for trial in trials]
    so_far = itertools.accumulate((-1.0 if score is None else score for score in scores), max)
    best = [(trial["trial"], score if score >= 0 else None) for trial, score in zip(trials, so_far, strict=True)]
    chart = line_chart(
        "Foreground Dice on eval",
        "trial",
        [
            Series("of a trial", "var(--second)", [(t["trial"], t["foreground_dice"]) for t in trials], dots=True),
            Series("the best so far", "var(--first)", best),
        ],
        tuning["best"],
        "taken",
    )
    return SearchView(
        keys=list(trials[0]["values"]),
        rows=ranked(trials),
        best=tuning["best"],
        seconds=sum(trial["seconds"] for trial in trials),
        budget=tuning["budget_seconds"],
        chart=chart,
    )


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The best first, those that failed last."""

    def score(trial: Trial) -> float:
        return -1.0 if trial["foreground_dice"] is None else trial["foreground_dice"]

    return sorted(trials, key=score, reverse=True)


def in_words(value: Scalar) -> str:
    """A value as a configuration would have it, numbers to four digits."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
