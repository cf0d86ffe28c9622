"""The gate's checks in words, and every score of a run, read back from the Evaluator's artifacts.

The decision is TFMA's own blessing; what stands here explains it check by check, and refuses to disagree with it.
"""

# Before TFMA, which lacks half its names unless TFX has stood in for what its libraries dropped.
from tfx import v1  # noqa: F401

# isort: split
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import tensorflow_model_analysis as tfma
from numpy.typing import NDArray
from tensorflow_model_analysis.proto import metrics_for_slice_pb2

from components import derived_scores, segmentation_metrics
from components.measurement import SLICES_PER_COLUMN
from flexunet.core import scores
from flexunet.core.config.gate import GateSettings
from flexunet.core.detection import PROVING
from flexunet.core.results.metrics import (
    OVERALL,
    Baseline,
    BaselineDetails,
    Check,
    ClassScores,
    Details,
    Detection,
    Listed,
    Scores,
)

# Below so many groups an interval is rough.
FEW_GROUPS: Final = 50
# Checks are listed in this order, the rest by name: TFMA keeps thresholds in a map.
_ORDER: Final = (
    derived_scores.GATE + derived_scores.FOREGROUND_DICE,
    derived_scores.FOREGROUND_DICE,
    derived_scores.MEASURED,
)
# Scores that are no Dice: what each is called, what it says, and what the images lack where it is undefined.
_SAID: Final = {
    derived_scores.DEFECTS_FOUND: (
        "the share of found defects",
        "{:.4f} of the defects were found",
        "no test image has a defect",
    ),
    derived_scores.FALSE_ALARMS: (
        "the share of false alarms",
        "{:.4f} of the defect-free images raised a false alarm",
        "no test image is without defect",
    ),
    derived_scores.FALSE_REGION_DENSITY: (
        "the number of false regions",
        "{:.4f} false regions per megapixel",
        "no pixel of the test images is labelled",
    ),
    derived_scores.A90_95: (
        "a90/95",
        "a90/95, the size from which on 90 % of the defects are found, is {:.4f} pixels",
        "no test image has a defect",
    ),
}

Value = float | bytes | NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """TFMA's result on the whole split.

    `candidate` and `baseline` hold each model's metrics by name: float, NaN if undefined, float64 `[C, C]` counts, or
    bytes; `baseline` is empty where there is none. `config` holds the thresholds, `validation_ok` is TFMA's verdict.
    """

    candidate: Mapping[str, Value]
    baseline: Mapping[str, Value]
    config: tfma.EvalConfig
    validation_ok: bool

    def score(self, name: str, baseline: bool = False) -> float:
        """The candidate's or the baseline's score; NaN if it is undefined."""
        return float((self.baseline if baseline else self.candidate)[name])

    def known_score(self, name: str, baseline: bool = False) -> float | None:
        """The same; None if it is undefined."""
        return scores.defined(self.score(name, baseline))

    def interval(self, name: str, baseline: bool = False) -> list[float] | None:
        """The 95 % interval of a score; None if it has none, as with a single group."""
        ends = (self.score(end(name), baseline) for end in (derived_scores.lower, derived_scores.upper))
        return scores.defined_interval(*ends)

    def difference(self, name: str) -> float:
        """Candidate minus baseline."""
        return self.score(name) - self.score(name, baseline=True)

    @property
    def has_baseline(self) -> bool:
        return bool(self.baseline)

    @property
    def counts(self) -> NDArray[np.float64]:
        """Pixel counts `[C, C]`, rows truth."""
        return np.asarray(self.candidate[segmentation_metrics.PIXEL_COUNTS], np.float64)

    @cached_property
    def details(self) -> Listed:
        """Slices, reliability bins and listed images: `derived_scores.details`."""
        return json.loads(bytes(self.candidate[segmentation_metrics.DETAILS]))


def read_evaluation(directory: str) -> Evaluation:
    """Reads the output of an Evaluator.

    Raises:
      ValueError: it holds no metrics of the whole split.
    """
    slices = [m for m in tfma.load_metrics(directory) if not m.slice_key.single_slice_keys]
    if not slices:
        raise ValueError(f"{directory}: no metrics of the whole split, expected the output of an Evaluator")
    models: dict[bool, dict[str, Value]] = {False: {}, True: {}}
    for pair in slices[0].metric_keys_and_values:
        if not pair.key.is_diff:
            models[pair.key.model_name == tfma.BASELINE_KEY][pair.key.name] = _value(pair.value)
    config = tfma.load_eval_result(directory).config
    return Evaluation(models[False], models[True], config, tfma.load_validation_result(directory).validation_ok)


def gate_checks(evaluation: Evaluation, settings: GateSettings) -> list[Check]:
    """Every check of the gate, passed or failed.

    Raises:
      ValueError: the checks do not add up to TFMA's own verdict.
    """
    thresholds = {
        name: threshold for spec in evaluation.config.metrics_specs for name, threshold in spec.thresholds.items()
    }
    ordered = sorted(thresholds, key=lambda name: (*(name != first for first in _ORDER), name))
    checks = [check for name in ordered for check in _checks_of(name, thresholds[name], evaluation, settings)]
    if all(check["passed"] for check in checks) != evaluation.validation_ok:
        raise ValueError(f"the checks {checks} do not add up to TFMA's verdict, {evaluation.validation_ok}")
    return checks


def metrics_json(evaluation: Evaluation, settings: GateSettings) -> Scores:
    """The part of `report/metrics.json` that the evaluation decides; what is undefined or not measured is None."""
    score = evaluation.known_score
    return {
        "blessed": evaluation.validation_ok,
        "examples": int(evaluation.score(derived_scores.EXAMPLES)),
        "groups": int(evaluation.score(derived_scores.GROUPS)),
        "gate": gate_checks(evaluation, settings),
        "foreground_dice": score(derived_scores.FOREGROUND_DICE),
        "foreground_dice_interval": evaluation.interval(derived_scores.FOREGROUND_DICE),
        "foreground_dice_model_size": score(derived_scores.FOREGROUND_DICE_MODEL_SIZE),
        "mean_iou": score(derived_scores.MEAN_IOU),
        "mean_iou_with_background": score(derived_scores.MEAN_IOU_WITH_BACKGROUND),
        "pixel_accuracy": score(derived_scores.PIXEL_ACCURACY),
        "seed_dice": score(derived_scores.SEED_DICE),
        "cross_entropy": score(derived_scores.CROSS_ENTROPY),
        "calibration_error": score(derived_scores.CALIBRATION_ERROR),
        "classes": {c.name: _class_scores(evaluation, c.name) for c in settings.classes},
        "defects": {
            "found_share": score(derived_scores.DEFECTS_FOUND),
            "false_alarm_share": score(derived_scores.FALSE_ALARMS),
            "present": score(derived_scores.PRESENT),
            "found": score(derived_scores.FOUND),
            "false_regions": score(derived_scores.FALSE_REGIONS),
            "false_regions_per_megapixel": score(derived_scores.FALSE_REGION_DENSITY),
            "a90_95": score(derived_scores.A90_95),
        },
        "slices": evaluation.details["slices"],
    }


def _class_scores(evaluation: Evaluation, class_name: str) -> ClassScores:
    def score(name: str) -> float | None:
        return evaluation.known_score(derived_scores.class_score(name, class_name))

    return {
        "dice": score("dice"),
        "iou": score("iou"),
        "precision": score("precision"),
        "recall": score("recall"),
        "pixels": score("pixels"),
    }


def baseline_json(evaluation: Evaluation, model: str) -> Baseline:
    """The baseline's part of `report/metrics.json`; `model` says where it lies."""
    return {
        "model": model,
        "foreground_dice": evaluation.known_score(derived_scores.FOREGROUND_DICE, baseline=True),
        "difference": scores.defined(evaluation.difference(derived_scores.FOREGROUND_DICE)),
        "difference_interval": evaluation.interval(derived_scores.FOREGROUND_DICE_DIFFERENCE),
    }


def details_json(evaluation: Evaluation, settings: GateSettings) -> Details:
    """`report/details.json`: what the contract of `metrics.json` has no place for."""
    names = (derived_scores.FOREGROUND_DICE, derived_scores.MEAN_IOU, derived_scores.PIXEL_ACCURACY)
    defects = [c.name for c in settings.classes[1:]]
    dice = {f"dice/{name}": evaluation.interval(derived_scores.class_score("dice", name)) for name in defects}
    pooled = (*names, derived_scores.DEFECTS_FOUND, derived_scores.FALSE_ALARMS, derived_scores.FALSE_REGION_DENSITY)
    found = {name: derived_scores.class_score(derived_scores.DEFECTS_FOUND, name) for name in defects}
    return {
        "warnings": warnings(evaluation),
        "intervals": {name: evaluation.interval(name) for name in pooled} | dice,
        "defects_found": {name: evaluation.known_score(key) for name, key in found.items()},
        "detection": evaluation.details["detection"],
        "curves": evaluation.details["curves"],
        "reliability": evaluation.details["reliability"],
        "images": evaluation.details["images"],
        "confusion": evaluation.counts.tolist() if np.isfinite(evaluation.counts).all() else None,
        "baseline": _baseline_details(evaluation, settings) if evaluation.has_baseline else None,
    }


def _baseline_details(evaluation: Evaluation, settings: GateSettings) -> BaselineDetails:
    def measured(name: str) -> tuple[float | None, list[float] | None]:
        return evaluation.known_score(name, baseline=True), evaluation.interval(name, baseline=True)

    dice, interval = measured(derived_scores.FOREGROUND_DICE)
    classes = {c.name: measured(derived_scores.class_score("dice", c.name)) for c in settings.classes[1:]}
    return {
        "foreground_dice": dice,
        "foreground_dice_interval": interval,
        "classes": {name: {"dice": value, "interval": ends} for name, (value, ends) in classes.items()},
    }


def warnings(evaluation: Evaluation) -> list[str]:
    """What to keep in mind when reading the scores."""
    groups = int(evaluation.score(derived_scores.GROUPS))
    columns = Counter(row["slice"].partition("=")[0] for row in evaluation.details["slices"])
    full = [column for column, count in columns.items() if count >= SLICES_PER_COLUMN]
    few = [f"{groups} groups of test images: below {FEW_GROUPS} the interval is rough"]
    return (few if groups < FEW_GROUPS else []) + [
        f"{column} has {SLICES_PER_COLUMN} values or more: the first in alphabetical order are shown" for column in full
    ]


def _checks_of(
    name: str, threshold: tfma.MetricThreshold, evaluation: Evaluation, settings: GateSettings
) -> Iterator[Check]:
    if threshold.HasField("value_threshold"):
        limits, value = threshold.value_threshold, evaluation.score(name)
        if limits.HasField("upper_bound"):
            yield _at_most(name.removeprefix(derived_scores.GATE), value, limits.upper_bound.value, evaluation)
        elif name == derived_scores.MEASURED:
            yield _measured(value, evaluation, settings)
        elif name.startswith(derived_scores.SLICE):
            yield _slice(name.removeprefix(derived_scores.SLICE), value, limits.lower_bound.value, evaluation, settings)
        else:
            yield _score(name.removeprefix(derived_scores.GATE), value, limits.lower_bound.value, evaluation, settings)
    if threshold.HasField("change_threshold") and evaluation.has_baseline:
        yield _change(evaluation, threshold.change_threshold.absolute.value)


def _score(name: str, value: float, bound: float, evaluation: Evaluation, settings: GateSettings) -> Check:
    required = f"at least {bound:.4f} is required"
    class_name = next((c.name for c in settings.classes if name == derived_scores.class_score("dice", c.name)), name)
    if name == derived_scores.FOREGROUND_DICE:
        interval, dice = evaluation.interval(name), evaluation.score(name)
        words = f"foreground Dice is {_say(dice, evaluation)}"
        if settings.gate.bound_on == "lower" and not math.isnan(dice):
            ends = "undefined, a single group has none" if interval is None else "{:.4f} to {:.4f}".format(*interval)
            required = f"95 % interval {ends}: its lower end must be at least {bound:.4f}"
        return _check(name, value, bound, value >= bound, f"{words}, {required}")
    if name == derived_scores.DEFECTS_FOUND:
        return _check(name, value, bound, value >= bound, f"{_said(name, value, evaluation)}, {required}")
    if class_name in settings.gate.allow_unmeasured and not evaluation.score(
        derived_scores.class_score("pixels", class_name)
    ):
        words = f"Dice of {class_name} is not measured, which gate.allow_unmeasured allows"
        return _check(name, float("nan"), bound, True, words)
    words = f"Dice of {class_name} is {_say(value, evaluation)}, {required}"
    return _check(name, value, bound, value >= bound, words)


def _measured(value: float, evaluation: Evaluation, settings: GateSettings) -> Check:
    pixels = {c.name: evaluation.score(derived_scores.class_score("pixels", c.name)) for c in settings.classes[1:]}
    missing = [n for n, count in pixels.items() if not count >= 1 and n not in settings.gate.allow_unmeasured]
    words = f"every class is measured, on at least {value:,.0f} pixels"
    if missing:
        reason = "no pixel in the test split: add such images, or name it in gate.allow_unmeasured"
        reason = "the model gave no number" if math.isnan(value) else reason
        words = f"not measured: {', '.join(missing)} ({reason})"
    return _check("measured", value, 1.0, value >= 1, words)


def _at_most(name: str, value: float, bound: float, evaluation: Evaluation) -> Check:
    words = f"{_said(name, value, evaluation)}, at most {bound:.4f} is allowed"
    return _check(name, value, bound, value <= bound, words)


def _slice(name: str, value: float, bound: float, evaluation: Evaluation, settings: GateSettings) -> Check:
    row = next((row for row in evaluation.details["slices"] if row["slice"] == name), None)
    if row is not None and row["gated"]:
        words = f"foreground Dice of {name} is {_say(value, evaluation)}, at least {bound:.4f} is required"
        return _check(derived_scores.FOREGROUND_DICE, value, bound, value >= bound, words, name)
    groups, shown = (0, None) if row is None else (row["groups"], row["foreground_dice"])
    dice = float("nan") if shown is None else shown
    words = f"foreground Dice of {name} is shown, not gated: {groups} groups, fewer than {settings.gate.min_groups}"
    return _check(derived_scores.FOREGROUND_DICE, dice, bound, True, words, name)


def _change(evaluation: Evaluation, bound: float) -> Check:
    change = evaluation.difference(derived_scores.FOREGROUND_DICE)
    interval = evaluation.interval(derived_scores.FOREGROUND_DICE_DIFFERENCE)
    ends = "" if interval is None else " (95 % interval {:+.4f} to {:+.4f})".format(*interval)
    words = f"foreground Dice changed by {_say(change, evaluation, '+')}{ends} against the baseline"
    name = f"{derived_scores.FOREGROUND_DICE} against baseline"
    return _check(name, change, bound, change >= bound, f"{words}, {bound:+.4f} is the most it may lose")


def _said(name: str, value: float, evaluation: Evaluation) -> str:
    """A score of `_SAID`, or why it is undefined."""
    subject, words, lacking = _SAID[name]
    detection = evaluation.details["detection"] if name == derived_scores.A90_95 else []
    if math.isnan(value):
        return f"{subject} is {_undefined(_unproven(detection[0]) if detection else lacking, evaluation)}"
    is_smallest = detection and value <= detection[0]["sizes"][0]["size"]
    return words.format(value) + (" (the smallest of the test images: nothing is known below)" if is_smallest else "")


def _unproven(detection: Detection) -> str:
    """Why the split has no a90/95."""
    observations = detection["observations"]
    if observations < PROVING:
        return (
            f"the test images prove none: their defects, those of near-duplicates together, count as "
            f"{math.floor(observations)} observations, and at least {PROVING} are needed"
        )
    return "the test images prove none: 90 % is not certain even of the largest defects"


def _say(value: float, evaluation: Evaluation, sign: str = "") -> str:
    return _undefined("no such pixel", evaluation) if math.isnan(value) else f"{value:{sign}.4f}"


def _undefined(lacking: str, evaluation: Evaluation) -> str:
    gave_numbers = np.isfinite(evaluation.counts).all()
    return f"undefined ({lacking if gave_numbers else 'the model gave no number'})"


def _check(name: str, value: float, bound: float, passed: bool, words: str, slice_name: str = OVERALL) -> Check:
    # Bounds are inclusive and NaN fails, as in TFMA.
    return {
        "check": name,
        "slice": slice_name,
        "value": scores.defined(value),
        "bound": bound,
        "passed": bool(passed),
        "words": words,
    }


def _value(value: metrics_for_slice_pb2.MetricValue) -> Value:
    kind = value.WhichOneof("type")
    if kind == "double_value":
        return value.double_value.value
    if kind == "bytes_value":
        return value.bytes_value
    if kind == "array_value":
        array = value.array_value
        return np.array(array.float64_values or array.float32_values, np.float64).reshape(array.shape)
    return float("nan")
