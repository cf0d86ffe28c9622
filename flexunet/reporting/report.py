"""`report/index.html`: one run in one file that opens anywhere, without network and without other files."""

import base64
import datetime
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict

from flexunet.core.epochs import Epochs, best_epoch, read_history
from flexunet.core.errors import UserError
from flexunet.core.features import TRAINING_AUGMENTED, TRAINING_HISTORY
from flexunet.core.files import read_json, replace_text
from flexunet.core.results.data import Data
from flexunet.core.results.lineage import ReportLineage
from flexunet.core.results.metrics import BaselineClass, BaselineDetails, ClassScores, Details, Metrics
from flexunet.core.results.model import GalleryImage, Model
from flexunet.core.results.serving import Serving
from flexunet.core.results.tuning import Tuning
from flexunet.core.root import ReportFolder
from flexunet.reporting import inspection, mistakes, search, training
from flexunet.reporting.charts import Histogram, reliability
from flexunet.reporting.look import Variables, data_uri, environment, rgb
from flexunet.reporting.overlays import pattern_css
from flexunet.reporting.settings import settings_of
from flexunet.reporting.verdict import headline

ERROR_WORDS: Final = {
    mistakes.RIGHT: "defect seen rightly",
    mistakes.MISSED: "missed defect",
    mistakes.FALSE_ALARM: "false alarm",
    mistakes.WRONG_CLASS: "wrong class",
}
_SCRIPT: Final = "report.js"
_CONFUSION_SHOWN: Final = 24


_NOT_MEASURED: Final[BaselineClass] = {"dice": None, "interval": None}
_NO_BASELINE: Final[BaselineDetails] = {"foreground_dice": None, "foreground_dice_interval": None, "classes": {}}


class ClassRow(ClassScores):
    """A line of the table of scores."""

    name: str
    interval: list[float] | None
    baseline: float | None
    baseline_interval: list[float] | None
    bound: float | None
    found: float | None


class ConfusionRow(TypedDict):
    """A class of the truth: its pixels, and the share of them predicted as each class shown; None: it has none."""

    name: str
    pixels: float
    shares: list[float | None]


class Confusion(TypedDict):
    """Classes shown, and how many are not."""

    names: list[str]
    rows: list[ConfusionRow]
    left_out: int


@dataclass(frozen=True)
class Report:
    """The JSON files of a report; None for what a run of a part of the pipeline does not write."""

    folder: ReportFolder
    metrics: Metrics
    details: Details
    lineage: ReportLineage
    serving: Serving | None
    data: Data | None
    model: Model | None
    gallery: list[GalleryImage]
    history: Epochs
    tuning: Tuning | None = None

    @property
    def colors(self) -> dict[str, str]:
        """CSS colour of each class by name, in the order of their ids."""
        return {row["name"]: rgb(row["color"]) for row in self.lineage["config"]["classes"]}


def read_report(folder: ReportFolder) -> Report:
    """Reads a report's folder.

    Raises:
      UserError: it holds no report of this version.
    """
    needed = {path.name: read_json(path) for path in (folder.metrics, folder.details, folder.lineage)}
    missing = [f"no {name}" for name, content in needed.items() if content is None]
    if not missing and "operating_point" not in needed[folder.metrics.name]:
        missing = [f"no operating_point in {folder.metrics.name}"]
    if missing:
        raise UserError(f"{folder.path}: {missing[0]}, expected the report of a run of this version: run it again")
    return Report(
        folder,
        *needed.values(),
        serving=read_json(folder.serving),
        data=read_json(folder.data),
        model=read_json(folder.model),
        gallery=read_json(folder.gallery_index) or [],
        history=read_history(folder.training / TRAINING_HISTORY),
        tuning=read_json(folder.tuning),
    )


def write_page(folder: ReportFolder) -> Path:
    """Writes `index.html` from the other files of a report's folder; returns its path.

    Raises:
      UserError: the folder holds no report of this version.
    """
    replace_text(folder.page, render_report(read_report(folder)))
    return folder.page


def render_report(report: Report) -> str:
    """The page; the same report gives the same text."""
    made = environment()
    assert made.loader is not None
    script = made.loader.get_source(made, _SCRIPT)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # The policy of the page lets no other script run, whatever a name in it holds.
    return made.get_template("report.html.j2").render(_contents(report), script=script, script_hash=f"sha256-{digest}")


def _contents(report: Report) -> Variables:
    """The variables of the template, section by section."""
    measured = datetime.datetime.fromisoformat(report.lineage["measured"])
    return {
        "metrics": report.metrics,
        "details": report.details,
        "serving": report.serving,
        # An earlier version's export has none.
        "symmetries": report.lineage["config"]["serving"].get("symmetries", 1),
        "lineage": report.lineage,
        "colors": report.colors,
        "verdict": headline(report.metrics, report.serving),
        "measured": measured.strftime("%d %B %Y, %H:%M UTC").removeprefix("0"),
        "missed": inspection.missed_defects(report.details["detection"]),
        "square_metre": inspection.per_square_metre(
            report.metrics["defects"]["false_regions_per_megapixel"], report.lineage["config"]["image"]["pixel_size"]
        ),
        "detection_charts": inspection.detection_charts(report.details["detection"]),
        "point": report.metrics["operating_point"],
        "curve_charts": inspection.curve_charts(report.details["curves"], report.metrics["operating_point"]),
        "pattern": pattern_css,
        "rows": _class_rows(report),
        "confusion": _confusion(report),
        "reliability": reliability(report.details["reliability"]),
        "gallery": [_shown(row, report) for row in report.gallery],
        "error_kinds": [
            (kind, words, pattern_css(number, rgb(mistakes.COLORS[kind])))
            for number, (kind, words) in enumerate(ERROR_WORDS.items(), start=1)
        ],
        "model": report.model,
        "diagram": _diagram(report),
        "settings": settings_of(report.lineage["config"]),
        "search": search.view(report.tuning),
        "in_words": search.in_words,
        **_training(report),
        **_data(report),
    }


def _class_rows(report: Report) -> list[ClassRow]:
    """Rows of the table of scores: foreground first, then each class, with interval, baseline and bound."""
    metrics, details, gate = report.metrics, report.details, report.lineage["config"]["gate"]
    baseline = details["baseline"] or _NO_BASELINE
    total: ClassRow = {
        "name": "all defects",
        "dice": metrics["foreground_dice"],
        "interval": metrics["foreground_dice_interval"],
        "baseline": baseline["foreground_dice"],
        "baseline_interval": baseline["foreground_dice_interval"],
        "bound": gate["min_foreground_dice"],
        "iou": metrics["mean_iou"],
        "precision": None,
        "recall": None,
        "found": metrics["defects"]["found_share"],
        "pixels": sum(r["pixels"] or 0 for name, r in metrics["classes"].items() if name in details["defects_found"]),
    }
    rows: list[ClassRow] = [
        {
            **row,
            "name": name,
            "interval": details["intervals"].get(f"dice/{name}"),
            "baseline": baseline["classes"].get(name, _NOT_MEASURED)["dice"],
            "baseline_interval": baseline["classes"].get(name, _NOT_MEASURED)["interval"],
            "bound": gate["min_class_dice"].get(name),
            "found": details["defects_found"].get(name),
        }
        for name, row in metrics["classes"].items()
    ]
    return [total, *rows]


def _confusion(report: Report) -> Confusion:
    """A row for each class of the truth: its pixels, and which share of them was predicted as each class.

    Of many classes those with the most mistaken pixels: the table grows with their square.
    """
    counts, names = report.details["confusion"] or [], list(report.colors)
    mistaken = [sum(row) - row[index] + sum(other[index] for other in counts) for index, row in enumerate(counts)]
    shown = sorted(sorted(range(len(counts)), key=lambda index: -mistaken[index])[:_CONFUSION_SHOWN])
    rows: list[ConfusionRow] = []
    for index in shown:
        total = sum(counts[index])
        shares = [counts[index][other] / total if total else None for other in shown]
        rows.append({"name": names[index], "pixels": total, "shares": shares})
    return {"names": [names[index] for index in shown], "rows": rows, "left_out": len(counts) - len(shown)}


def _shown(row: GalleryImage, report: Report) -> Variables:
    """An image of the gallery: its pictures inside the page, and what the filters look at."""
    folder = report.folder.gallery
    kinds = (mistakes.MISSED, mistakes.FALSE_ALARM, mistakes.WRONG_CLASS)
    totals = {kind: sum(counts[kind] for counts in row["classes"].values()) for kind in kinds}
    return {
        **row,
        "pictures": {
            part: data_uri((folder / name).read_bytes(), "jpeg" if name.endswith(".jpg") else "png")
            for part, name in row["files"].items()
        },
        "totals": totals,
        # No picture may say that all is well beside a large wrong area.
        "areas": [
            (words, row["pixels"][kind] / (row["width"] * row["height"]))
            for words, kind in (("marked outside of defects", mistakes.FALSE_ALARM), ("not marked", mistakes.MISSED))
        ],
        "defects": sum(counts["defects"] for counts in row["classes"].values()),
    }


def _training(report: Report) -> Variables:
    config = report.lineage["config"]
    folder = report.folder.training
    best = best_epoch(report.history, config["train"]["monitor"])
    return {
        "charts": training.charts(report.history, best),
        "best_epoch": best,
        "epochs": len(report.history),
        "strips": training.strips(folder, best),
        "augmented": training.augmented(folder / TRAINING_AUGMENTED),
    }


def _data(report: Report) -> Variables:
    if report.data is None:
        return {"data": None, "brightness": []}
    plots = [
        Histogram(
            f"{split}, mean {row['mean']:.0f}", "grey level", [f"{edge:.0f}" for edge in row["edges"]], row["counts"]
        )
        for split, row in report.data["brightness"].items()
    ]
    return {"data": report.data, "brightness": plots}


def _diagram(report: Report) -> str | None:
    path = report.folder.diagram
    return data_uri(path.read_bytes(), "svg+xml") if path.is_file() else None
