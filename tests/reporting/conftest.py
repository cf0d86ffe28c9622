"""A report's folder with known mistakes."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import encoded
from PIL import Image, PngImagePlugin

from flexunet.core.config.gate import GateSettings
from flexunet.core.config.section import part_of
from flexunet.core.config.whole import Config
from flexunet.core.files import write_json
from flexunet.core.palette import rgb_from_class_ids
from flexunet.core.root import ReportFolder
from flexunet.reporting.gallery import Predicted, write_gallery

SIDE = 48
# What each image of the gallery shows: truth and prediction as (class, row, column, height, width).
CASES: dict[str, tuple[list[tuple[int, ...]], list[tuple[int, ...]]]] = {
    "missed": ([(1, 4, 4, 10, 10)], []),
    "alarm": ([(2, 4, 4, 10, 10)], [(2, 4, 4, 10, 10), (3, 30, 30, 8, 8)]),
    "wrong": ([(3, 4, 4, 10, 10)], [(1, 4, 4, 10, 10)]),
    "rim": ([(2, 10, 10, 20, 20)], [(2, 11, 11, 20, 20)]),
    "right": ([(1, 20, 20, 6, 6)], [(1, 20, 20, 6, 6)]),
}


def drawn(regions: list[tuple[int, ...]], side: int = SIDE) -> NDArray[np.uint8]:
    """Class ids uint8 `[side, side]`."""
    ids = np.zeros((side, side), np.uint8)
    for class_id, row, column, height, width in regions:
        ids[row : row + height, column : column + width] = class_id
    return ids


def case(name: str, which: list[str], dice: float) -> Predicted:
    truth, predicted = (drawn(regions) for regions in CASES[name])
    photo = np.random.default_rng(0).integers(60, 160, (SIDE, SIDE, 3)).astype(np.uint8)
    return Predicted(which, name, dice, encoded(photo), truth, predicted)


@pytest.fixture(scope="session")
def write_report_folder(make_config: Callable[..., Config]) -> Callable[..., ReportFolder]:
    """`write_report_folder(folder, blessed=False)`: everything that the report node writes but the page itself."""

    def write(
        folder: Path, blessed: bool = True, dice: float = 0.8, images: Any = None, **changes: Any
    ) -> ReportFolder:
        config = changes.pop("config", None) or make_config()
        folder.mkdir(parents=True, exist_ok=True)
        report = ReportFolder(folder)
        write_json(report.metrics, {**_metrics(config, blessed, dice), **changes})
        write_json(report.details, _details(config, dice))
        write_json(report.lineage, _lineage(config))
        write_json(report.serving, _serving(blessed))
        write_json(report.data, _data(config))
        _write_training(report.training, config)
        if images is None:
            places = (["worst"], ["worst"], ["worst", "median"], ["median"], ["best"])
            images = [case(name, which, 0.2 * i) for i, (name, which) in enumerate(zip(CASES, places, strict=True))]
        write_gallery(report, images, part_of(config, GateSettings))
        return report

    return write


def _metrics(config: Config, blessed: bool, dice: float) -> dict[str, Any]:
    names = [c.name for c in config.classes]
    scores = {"dice": dice, "iou": dice / (2 - dice), "precision": dice, "recall": dice, "pixels": 1000.0}
    bound = config.gate.min_foreground_dice if blessed else 0.99
    words = f"foreground Dice is {dice:.4f}, 95 % interval {dice - 0.1:.4f} to {dice + 0.1:.4f}: its lower end must be"
    check = {"check": "foreground_dice", "slice": "Overall", "value": dice - 0.1, "bound": bound, "passed": blessed}
    row = {"images": 3, "groups": 2, "foreground_dice": dice, "found_share": 0.5, "false_alarm_share": None}
    return {
        "format": 1,
        "run_id": "2026-11-24T22:30:01.000001",
        "verdict": "accepted" if blessed else "refused_by_gate",
        "problems": [] if blessed else [f"{words} at least {bound:.4f}"],
        "next_step": None if blessed else "look at the worst images",
        "pushed_version": 2 if blessed else None,
        "split": "test",
        "blessed": blessed,
        "examples": 5,
        "groups": 5,
        "gate": [{**check, "words": f"{words} at least {bound:.4f}"}],
        "foreground_dice": dice,
        "foreground_dice_interval": [dice - 0.1, dice + 0.1],
        "foreground_dice_model_size": dice,
        "mean_iou": dice / (2 - dice),
        "mean_iou_with_background": 0.8,
        "pixel_accuracy": 0.97,
        "seed_dice": 0.96,
        "cross_entropy": 0.1,
        "calibration_error": 0.02,
        "classes": dict.fromkeys(names, scores),
        "defects": {
            "found_share": 0.75,
            "false_alarm_share": None,
            "present": 144.0,
            "found": 108.0,
            "false_regions": 5.0,
            "false_regions_per_megapixel": 12.5,
            "a90_95": 21.5,
        },
        "operating_point": _operating_point(config),
        "slices": [{"slice": "defects=patches", "words": "images with patches", **row, "gated": False}],
        "baseline": {
            "model": "/runs/Trainer/model/9",
            "foreground_dice": dice - 0.05,
            "difference": 0.05,
            "difference_interval": [0.01, 0.09],
        },
        "parameters": 1234,
        "train_seconds": 61.5,
    }


def _details(config: Config, dice: float) -> dict[str, Any]:
    defects = [c.name for c in config.classes[1:]]
    ends = [dice - 0.1, dice + 0.1]
    size = len(config.classes)
    return {
        "warnings": ["5 groups of test images: below 50 the interval is rough"],
        "intervals": {
            "foreground_dice": ends,
            "defects_found": [0.66, 0.82],
            "false_alarms": None,
            "false_regions_per_megapixel": [8.0, 20.0],
            **{f"dice/{name}": ends for name in defects},
        },
        "defects_found": dict.fromkeys(defects, 0.75),
        "reliability": [
            {"pixels": 100.0, "confidence": 0.55, "accuracy": 0.5},
            {"pixels": 900.0, "confidence": 0.99, "accuracy": 0.97},
        ],
        "detection": [_detection(name, 3 if name == "all defects" else 1) for name in ("all defects", *defects)],
        "curves": [_curve_point(name, threshold) for name in defects for threshold in (0.1192, 0.2689, 0.5, 0.7311)],
        "images": {"worst": [], "median": [], "best": [], "shown": []},
        "confusion": (np.eye(size) * 900 + 10).tolist(),
        "baseline": {
            "foreground_dice": dice - 0.05,
            "foreground_dice_interval": [dice - 0.15, dice + 0.05],
            "classes": {name: {"dice": dice - 0.05, "interval": None} for name in defects},
        },
    }


def _operating_point(config: Config) -> dict[str, Any]:
    names = [c.name for c in config.classes[1:]]
    return {
        "target": "found >= 0.9",
        "thresholds": dict.fromkeys(names, 0.2689),
        "smallest_regions": dict.fromkeys(names, 8),
        "images": 40,
        "found_share": {**dict.fromkeys(names, 0.92), names[-1]: None},
        "false_regions_per_megapixel": 11.0,
        "problems": [f"`eval` shows no {names[-1]}: its threshold is a guess"],
    }


def _detection(name: str, weight: int) -> dict[str, Any]:
    """A quarter of the defects is missed, the smaller ones."""
    sizes = [3.0, 5.0, 8.0, 12.0, 18.0, 26.0]
    found = [2, 4, 6, 8, 8, 8]
    curve = [1 / (1 + np.exp(3.2 - 2 * np.log(size))) for size in sizes]
    return {
        "name": name,
        "sizes": [
            {"size": s, "present": 8.0 * weight, "found": float(f * weight)} for s, f in zip(sizes, found, strict=True)
        ],
        "observations": 20.0 * weight,
        "intercept": -3.2,
        "slope": 2.0,
        "a90": 14.9,
        "a90_95": 21.5,
        "band": [[size, max(0.0, p - 0.1), min(1.0, p + 0.1)] for size, p in zip(sizes, curve, strict=True)],
    }


def _curve_point(name: str, threshold: float) -> dict[str, Any]:
    found = 1.0 - 0.4 * threshold
    return {
        "name": name,
        "threshold": threshold,
        "found_share": found,
        "found_interval": [found - 0.1, min(1.0, found + 0.1)],
        "false_regions_per_megapixel": 4 / threshold,
        "false_interval": [3 / threshold, 6 / threshold],
    }


def _lineage(config: Config) -> dict[str, Any]:
    return {
        "run": "2026-11-24T22:30:01.000001",
        "project": "rolling-mill-2",
        "measured": "2026-11-24T22:31:00+00:00",
        "model": {"uri": "/runs/Trainer/model/12", "sha256": "a" * 64, "code": "b" * 64, "weights": None},
        "data": {
            "span": 2,
            "spans": ["span-2/version-1", "span-1/version-1"],
            "uri": "/runs/RecordGen/examples/1",
            "fingerprint": "split:train,num_files:1,total_bytes:99",
        },
        "config": config.model_dump(mode="json"),
        "libraries": {"Python": "3.11.7", "tensorflow": "2.21.0"},
    }


def _serving(blessed: bool) -> dict[str, Any]:
    if not blessed:
        return {"blessed": False, "problems": ["not checked"], "rolled_back": None}
    measured = {"latency_seconds": {"p50": 0.012, "p95": 0.02}, "batch": {"rows": 8, "images_per_second": 100.0}}
    memory = {"load_seconds": 0.4, "idle_megabytes": 300.0, "megabytes_above_idle": 50.0}
    return {"blessed": True, "problems": [], "rolled_back": None, **measured, **memory}


def _data(config: Config) -> dict[str, Any]:
    names = [c.name for c in config.classes]
    split = {
        "images": 10,
        "images_with": {name: 0 if name == names[-1] else 5 for name in names},
        "pixels": dict.fromkeys(names, 100),
        "shares": {name: 1 / len(names) for name in names},
        "ignored_pixels": 0,
    }
    brightness = {"mean": 100.0, "edges": [0.0, 50.0, 100.0, 150.0], "counts": [1, 4, 5]}
    moved = {"feature": "brightness", "distance": 0.2, "threshold": 0.1, "moved": True, "now": 154.0, "before": 114.0}
    return {
        "span": 2,
        "splits": dict.fromkeys(("train", "eval", "test"), split),
        "brightness": dict.fromkeys(("train", "eval", "test"), brightness),
        "drift": {"compared_with_spans": [1], "measure": "Kolmogorov-Smirnov", "features": [moved]},
    }


def _write_training(folder: Path, config: Config, epochs: int = 30) -> None:
    previews = folder / "previews"
    previews.mkdir(parents=True, exist_ok=True)
    columns = ("epoch", "learning_rate", "foreground_dice", "loss", "val_foreground_dice", "val_loss")
    with (folder / "history.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for epoch in range(1, epochs + 1):
            dice = 0.8 * epoch / epochs
            writer.writerow([epoch, 0.01, dice, 1 - dice, dice - 0.05 if epoch != 20 else 0.9, 1.1 - dice])
    strip = rgb_from_class_ids(np.concatenate([drawn([(k % 4, 4, 4, 9, 9)]) for k in range(6)], axis=1), config.classes)
    number = PngImagePlugin.PngInfo()
    number.add_text("images", "6")
    for name in ("images", "truth", *(f"epoch-{epoch:04d}" for epoch in range(1, epochs + 1))):
        Image.fromarray(strip).save(previews / f"{name}.png", pnginfo=number)
