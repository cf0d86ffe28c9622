"""The gate's checks in words, and every score of a run, read back from the Evaluator's artifacts.

The decision is TFMA's own blessing; what stands here explains it check by check, and refuses to disagree with it.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_model_analysis as tfma
from numpy.typing import NDArray

from components import segmentation_metrics as names
from pipeline import scores
from pipeline.config import GateSettings

_BASELINE = tfma.BASELINE_KEY


class Evaluation:
    """TFMA's result on the whole split, by metric name."""

    def __init__(self, directory: str) -> None:
        slices = [m for m in tfma.load_metrics(directory) if not m.slice_key.single_slice_keys]
        if not slices:
            raise ValueError(f"{directory}: no metrics of the whole split, expected the output of an Evaluator")
        self._values = {
            (pair.key.name, pair.key.model_name == _BASELINE, pair.key.is_diff): _value(pair.value)
            for pair in slices[0].metric_keys_and_values
        }
        self.config: tfma.EvalConfig = tfma.load_eval_result(directory).config
        self.validation_ok: bool = tfma.load_validation_result(directory).validation_ok

    def score(self, name: str, baseline: bool = False) -> float:
        """The candidate's or the baseline's score; NaN if it is undefined."""
        return float(self._values[(name, baseline, False)])

    def difference(self, name: str) -> float:
        """Candidate minus baseline."""
        return self.score(name) - self.score(name, baseline=True)

    @property
    def has_baseline(self) -> bool:
        return (names.FOREGROUND_DICE, True, False) in self._values

    @property
    def counts(self) -> NDArray[np.float64]:
        """Pixel counts `[C, C]`, rows truth."""
        return self._values[(names.PIXEL_COUNTS, False, False)]


def gate_checks(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Every check of the gate, passed or failed: `{check, slice, value, bound, passed, words}`.

    Raises:
      ValueError: the checks do not add up to TFMA's own verdict.
    """
    checks = [
        check
        for spec in evaluation.config.metrics_specs
        for metric in spec.metrics
        if metric.HasField("threshold")
        for check in _checks_of(metric, evaluation)
    ]
    if all(check["passed"] for check in checks) != evaluation.validation_ok:
        raise ValueError(f"the checks {checks} do not add up to TFMA's verdict, {evaluation.validation_ok}")
    return checks


def metrics_json(evaluation: Evaluation, settings: GateSettings) -> dict[str, Any]:
    """The part of `report/metrics.json` that the evaluation decides; what is undefined or not measured is None."""
    counts = evaluation.counts
    return {
        "blessed": evaluation.validation_ok,
        "examples": int(evaluation.score(names.EXAMPLE_COUNT)),
        "groups": None,
        "gate": gate_checks(evaluation),
        "foreground_dice": number(scores.foreground_dice(counts)),
        "foreground_dice_interval": None,
        "foreground_dice_model_size": None,
        "mean_iou": number(scores.mean_defined(scores.iou(counts)[1:])),
        "mean_iou_with_background": number(scores.mean_defined(scores.iou(counts))),
        "pixel_accuracy": number(scores.pixel_accuracy(counts)),
        "seed_dice": number(evaluation.score(names.SEED_DICE)),
        "cross_entropy": number(evaluation.score(names.CROSS_ENTROPY)),
        "calibration_error": None,
        "classes": _class_scores(counts, settings),
        "defects": None,
        "slices": [],
    }


def _class_scores(counts: NDArray[np.float64], settings: GateSettings) -> dict[str, dict[str, float | None]]:
    columns = {
        "dice": scores.dice(counts),
        "iou": scores.iou(counts),
        "precision": scores.precision(counts),
        "recall": scores.recall(counts),
    }
    pixels = counts.sum(axis=-1)
    return {
        segmentation_class.name: {
            **{name: number(column[class_id]) for name, column in columns.items()},
            "pixels": number(pixels[class_id]),
        }
        for class_id, segmentation_class in enumerate(settings.classes)
    }


def _checks_of(metric: tfma.MetricConfig, evaluation: Evaluation) -> list[dict[str, Any]]:
    name = json.loads(metric.config)["name"]
    label = _label(name)
    threshold, value = metric.threshold, evaluation.score(name)
    checks = []
    if threshold.HasField("value_threshold"):
        bound = threshold.value_threshold.lower_bound.value
        checks.append(_check(name, value, bound, f"{label} is {_say(value)}, at least {bound:.4f} is required"))
    if threshold.HasField("change_threshold") and evaluation.has_baseline:
        change, bound = evaluation.difference(name), threshold.change_threshold.absolute.value
        words = f"{label} changed by {_say(change, '+')} against the baseline, {bound:+.4f} is the most it may lose"
        checks.append(_check(f"{name} against baseline", change, bound, words))
    return checks


def _label(name: str) -> str:
    return "foreground Dice" if name == names.FOREGROUND_DICE else f"Dice of {name.partition('/')[2]}"


def _say(value: float, sign: str = "") -> str:
    return "undefined (no such pixel, or the model gave no number)" if math.isnan(value) else f"{value:{sign}.4f}"


def _check(name: str, value: float, bound: float, words: str) -> dict[str, Any]:
    # Bounds are inclusive and NaN fails, as in TFMA.
    passed = value >= bound
    return {
        "check": name,
        "slice": "Overall",
        "value": number(value),
        "bound": bound,
        "passed": bool(passed),
        "words": words,
    }


def number(value: Any) -> float | None:
    """A JSON number, or None for what is undefined."""
    return float(value) if np.isfinite(value) else None


def _value(value: Any) -> Any:
    kind = value.WhichOneof("type")
    if kind == "double_value":
        return value.double_value.value
    if kind == "array_value":
        array = value.array_value
        return np.array(array.float64_values or array.float32_values, np.float64).reshape(array.shape)
    return float("nan")


def training_facts(path: Path) -> Mapping[str, Any]:
    """`assets.extra/training.json` of an export: parameters, epochs, train_seconds."""
    return json.loads(path.read_text(encoding="utf-8"))
