"""`drift.html`: served images against those that the model was tried on, in one file without scripts."""

from typing import Final

from flexunet.core.results.live import LiveDrift, Moved
from flexunet.reporting.look import Variables, environment, percent

DRIFT_PAGE: Final = "drift.html"


def render_drift(found: LiveDrift) -> str:
    """The page; the same input gives the same text."""
    return (
        environment().get_template("drift.html.j2").render(found=found, rows=[_row(row) for row in found["findings"]])
    )


def _row(finding: Moved) -> Variables:
    low, high = finding["interval"]
    is_ratio = finding["measure"] == "ratio"
    spelled = {
        when: percent(values[0]) if is_ratio else " · ".join(f"{value:.4g}" for value in values)
        for when, values in (("now", finding["now"]), ("before", finding["before"]))
    }
    measured = f"{finding['value']:.2f} ({low:.2f} to {high:.2f})"
    unit = " times" if is_ratio else ""
    return {**finding, **spelled, "measured": measured + unit, "allowed": f"{finding['bound']:g}{unit}"}
