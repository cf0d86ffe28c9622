"""Two runs side by side: what came out, and what was different about them."""

from pathlib import Path
from typing import Final, Literal, TypedDict

from flexunet.core.files import JsonObject, replace_text
from flexunet.core.root import ReportFolder
from flexunet.reporting.charts import LineChart, Series, line_chart
from flexunet.reporting.look import Variables, environment
from flexunet.reporting.report import Report
from flexunet.reporting.settings import differences
from flexunet.reporting.verdict import headline

OtherScore = Literal["mean_iou", "pixel_accuracy", "cross_entropy", "calibration_error"]


class Measured(TypedDict):
    """Dice with its interval, and the share of defects that were found."""

    dice: float | None
    interval: list[float] | None
    found: float | None


_SCORES: Final[tuple[tuple[str, OtherScore], ...]] = (
    ("mean IoU", "mean_iou"),
    ("pixel accuracy", "pixel_accuracy"),
    ("cross-entropy", "cross_entropy"),
    ("calibration error", "calibration_error"),
)


def write_comparison(folder: ReportFolder, here: Report, there: Report, name: str) -> Path:
    """Writes `against.html` into `folder`, that of `here`; `name` is what the user called the other run."""
    page = environment().get_template("comparison.html.j2").render(_contents(here, there, name))
    replace_text(folder.comparison, page)
    return folder.comparison


def _contents(here: Report, there: Report, name: str) -> Variables:
    reports = (here, there)
    return {
        "here": here.metrics,
        "there": there.metrics,
        "name": name,
        "verdicts": [headline(report.metrics, report.serving) for report in reports],
        "lineages": [report.lineage for report in reports],
        "colors": {**there.colors, **here.colors},
        "rows": _rows(here, there),
        "others": [(words, here.metrics[key], there.metrics[key]) for words, key in _SCORES],
        "checks": _checks(here, there),
        "differences": differences(_settings(here), _settings(there)),
        "same_images": _same_images(here, there),
        "charts": _charts(here, there),
    }


def _settings(report: Report) -> JsonObject:
    """The configuration, and what else two runs can differ in: spans and records, the operating point, libraries."""
    lineage, point = report.lineage, report.metrics["operating_point"]
    data = {key: lineage["data"].get(key) for key in ("span", "spans", "fingerprint")}
    figures = {key: point[key] if point else None for key in ("thresholds", "smallest_regions")}
    chosen = {"operating point": figures}
    return {**lineage["config"], "data": data, **chosen, "library": lineage["libraries"]}


def _rows(here: Report, there: Report) -> list[Variables]:
    """Foreground Dice and the classes that either run has; `baseline` is the other run, as the plot calls it."""
    names = dict.fromkeys([*here.metrics["classes"], *there.metrics["classes"]])
    rows = [_row("all defects", *(_headline(report) for report in (here, there)))]
    return rows + [_row(name, *(_class(report, name) for report in (here, there))) for name in names]


def _row(name: str, ours: Measured, theirs: Measured) -> Variables:
    return {
        "name": name,
        **ours,
        "baseline": theirs["dice"],
        "baseline_interval": theirs["interval"],
        "bound": None,
        "found": (ours["found"], theirs["found"]),
    }


def _headline(report: Report) -> Measured:
    metrics = report.metrics
    found = metrics["defects"]["found_share"]
    return {"dice": metrics["foreground_dice"], "interval": metrics["foreground_dice_interval"], "found": found}


def _class(report: Report, name: str) -> Measured:
    scores, details = report.metrics["classes"].get(name), report.details
    return {
        "dice": scores["dice"] if scores else None,
        "interval": details["intervals"].get(f"dice/{name}"),
        "found": details["defects_found"].get(name),
    }


def _checks(here: Report, there: Report) -> list[Variables]:
    """Each check of either gate, in both runs; None where a run has no such check."""
    ours, theirs = ({(c["check"], c["slice"]): c for c in r.metrics["gate"]} for r in (here, there))
    return [{"here": ours.get(key), "there": theirs.get(key)} for key in dict.fromkeys([*ours, *theirs])]


def _same_images(here: Report, there: Report) -> bool:
    """Whether both were measured on the same records: else a difference of scores is not one of models."""
    return here.lineage["data"].get("fingerprint") == there.lineage["data"].get("fingerprint")


def _charts(here: Report, there: Report) -> list[LineChart]:
    columns = (("Loss on eval", "val_loss"), ("Foreground Dice on eval", "val_foreground_dice"))
    if not here.history or not there.history:
        return []
    return [
        line_chart(
            title,
            "epoch",
            [
                Series("this run", "var(--first)", [(row["epoch"], row.get(column)) for row in here.history]),
                Series("the other", "var(--second)", [(row["epoch"], row.get(column)) for row in there.history], True),
            ],
        )
        for title, column in columns
    ]
