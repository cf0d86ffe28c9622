"""From sums to scores: every number that the gate, the report and TFMA's viewers show, by the key of its metric."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from components.bootstrap import counted_interval, interval
from components.inspection import all_detections_a90_95, curve_points, detection_rows
from components.measurement import Numbers, Ranked, Resampled, SliceTotals, Totals, resamples_of
from flexunet.core import scores
from flexunet.core.config.gate import GateSettings
from flexunet.core.features import NO_DEFECT, defects_of, spelled
from flexunet.core.operating_point import PIXELS_OF_MEGAPIXEL

if TYPE_CHECKING:
    from flexunet.core.results.metrics import Listed, ListedImage, ReliabilityBin, SliceRow

EXAMPLES: Final = "examples"
GROUPS: Final = "groups"
FOREGROUND_DICE: Final = "foreground_dice"
FOREGROUND_DICE_MODEL_SIZE: Final = "foreground_dice_model_size"
FOREGROUND_DICE_DIFFERENCE: Final = "foreground_dice_difference"
MEAN_IOU: Final = "mean_iou"
MEAN_IOU_WITH_BACKGROUND: Final = "mean_iou_with_background"
PIXEL_ACCURACY: Final = "pixel_accuracy"
SEED_DICE: Final = "seed_dice"
CROSS_ENTROPY: Final = "cross_entropy"
CALIBRATION_ERROR: Final = "calibration_error"
DEFECTS_FOUND: Final = "defects_found"
FALSE_ALARMS: Final = "false_alarms"
# Counts, and false regions per megapixel.
PRESENT: Final = "defects_present"
FOUND: Final = "defects_found_count"
FALSE_REGIONS: Final = "false_regions"
FALSE_REGION_DENSITY: Final = "false_regions_per_megapixel"
A90_95: Final = "a90_95"
# What a check of the gate is held against; the rest is reported.
GATE: Final = "gate/"
MEASURED: Final = f"{GATE}measured"
SLICE: Final = f"{GATE}slice/"
CLASS_SCORES: Final = ("dice", "iou", "precision", "recall", "pixels")

# NumPy's scalars and arrays of none are numbers too.
Score = float | np.floating | Numbers


def lower(name: str) -> str:
    """The key of the lower end of a score's interval."""
    return f"{name}/lower"


def upper(name: str) -> str:
    """The key of its upper end."""
    return f"{name}/upper"


def class_score(score: str, class_name: str) -> str:
    """The key of one class's score, of CLASS_SCORES."""
    return f"{score}/{spelled(class_name)}"


def all_scores(totals: Totals, settings: GateSettings) -> dict[str, float]:
    """Every score and every value that a check is held against; NaN for what is undefined."""
    values = {**_reported(totals, settings), **_intervals(totals, settings)}
    return {name: float(value) for name, value in {**values, **_gated(values, totals, settings)}.items()}


def difference_interval(candidate: Totals, baseline: Totals) -> tuple[float, float]:
    """Interval of candidate minus baseline in foreground Dice: paired, since both have the same resamples."""
    mine, theirs = resamples_of(candidate), resamples_of(baseline)
    change = scores.foreground_dice(mine.pixels) - scores.foreground_dice(theirs.pixels)
    parts = (scores.dice(mine.pixels) - scores.dice(theirs.pixels))[..., 1:]
    return interval(change, parts, _dice_sizes(mine) + _dice_sizes(theirs), len(candidate.groups))


def slice_rows(totals: Totals, settings: GateSettings) -> "list[SliceRow]":
    """Slices by the size of the largest defect, then by column and value; what is undefined is None."""
    rows = [
        _slice_row(f"size={name}", f"largest defect of {part.smallest:,} to {part.largest:,} pixels", part, settings)
        for name, part in totals.size_quartiles().items()
    ]
    for (column, value), part in sorted(totals.slices.items(), key=lambda item: item[0]):
        rows.append(_slice_row(f"{column}={value}", _slice_words(column, value), part, settings))
    return rows


def details(totals: Totals, settings: GateSettings) -> "Listed":
    """What is no single number: slices, reliability bins, and the images worth looking at."""
    return {
        "slices": slice_rows(totals, settings),
        "detection": detection_rows(totals, settings),
        "curves": curve_points(totals, settings),
        "reliability": _reliability(totals),
        "images": {
            "worst": _listed(totals.worst),
            "median": _listed(totals.median(settings.gate.listed_images)),
            "best": _listed(totals.best[::-1]),
            "shown": _listed(totals.spread(settings.gate.shown_images)),
        },
    }


def _listed(images: Sequence[Ranked]) -> "list[ListedImage]":
    return [{"id": image.image_id, "dice": image.dice} for image in images]


def _reported(totals: Totals, settings: GateSettings) -> dict[str, Score]:
    sums = totals.known_sums
    labelled, of_truth, log_loss = sums.probability_sums
    values: dict[str, Score] = {
        EXAMPLES: totals.images,
        GROUPS: len(totals.groups),
        FOREGROUND_DICE: scores.foreground_dice(sums.counts),
        FOREGROUND_DICE_MODEL_SIZE: scores.foreground_dice(sums.model_size_counts),
        MEAN_IOU: scores.mean_defined(scores.iou(sums.counts)[1:]),
        MEAN_IOU_WITH_BACKGROUND: scores.mean_defined(scores.iou(sums.counts)),
        PIXEL_ACCURACY: scores.pixel_accuracy(sums.counts),
        # It sums over background too, which makes it the mean probability of the true class: never gated.
        SEED_DICE: scores.share(of_truth, labelled),
        CROSS_ENTROPY: scores.share(log_loss, labelled),
        CALIBRATION_ERROR: scores.expected_calibration_error(sums.calibration),
        DEFECTS_FOUND: scores.share(sums.found.sum(), sums.present.sum()),
        FALSE_ALARMS: scores.share(*sums.alarms),
        PRESENT: sums.present.sum(),
        FOUND: sums.found.sum(),
        FALSE_REGIONS: sums.false.sum(),
        FALSE_REGION_DENSITY: scores.share(sums.false.sum(), sums.counts.sum() / PIXELS_OF_MEGAPIXEL),
        A90_95: all_detections_a90_95(totals),
    }
    columns = [function(sums.counts) for function in (scores.dice, scores.iou, scores.precision, scores.recall)]
    columns.append(scores.margins(sums.counts).truth)
    for score, column in zip(CLASS_SCORES, columns, strict=True):
        values |= {class_score(score, c.name): column[i] for i, c in enumerate(settings.classes)}
    for class_id, segmentation_class in enumerate(settings.classes[1:], start=1):
        name = class_score(DEFECTS_FOUND, segmentation_class.name)
        values[name] = scores.share(sums.found[class_id], sums.present[class_id])
    return values


def _intervals(totals: Totals, settings: GateSettings) -> dict[str, float]:
    resampled = resamples_of(totals)
    pixels = resampled.pixels
    dice, sizes = scores.dice(pixels)[..., 1:], _dice_sizes(resampled)
    iou, unions = scores.iou(pixels)[..., 1:], (pixels.truth + pixels.predicted - pixels.hits)[..., 1:]
    found, present = resampled.found.sum(axis=-1), resampled.present.sum(axis=-1)
    megapixels = pixels.truth.sum(axis=-1) / PIXELS_OF_MEGAPIXEL
    counted = {
        DEFECTS_FOUND: (scores.share(found, present), present, True),
        FALSE_ALARMS: (scores.share(*resampled.alarms.T), resampled.alarms[:, 1], True),
        FALSE_REGION_DENSITY: (scores.share(resampled.false.sum(axis=-1), megapixels), megapixels, False),
    }
    ratios = {
        FOREGROUND_DICE: (scores.mean_defined(dice), dice, sizes),
        MEAN_IOU: (scores.mean_defined(iou), iou, unions),
        PIXEL_ACCURACY: _single(scores.pixel_accuracy(pixels), pixels.truth.sum(axis=-1)),
    }
    for index, segmentation_class in enumerate(settings.classes[1:]):
        ratios[class_score("dice", segmentation_class.name)] = _single(dice[:, index], sizes[:, index])
    groups = len(totals.groups)
    ends = {name: interval(score, parts, sizes, groups) for name, (score, parts, sizes) in ratios.items()}
    ends |= {name: counted_interval(ratio, size, groups, share) for name, (ratio, size, share) in counted.items()}
    return {key(name): end for name, pair in ends.items() for key, end in zip((lower, upper), pair, strict=True)}


def _gated(values: Mapping[str, Score], totals: Totals, settings: GateSettings) -> dict[str, Score]:
    """What TFMA's thresholds are laid on. What is exempt counts as 1, the best score, since TFMA knows no exemption: a
    slice of too few groups, and a class that may be, and is, unmeasured. gate.py says so in words.
    """
    gate = settings.gate
    required = [c.name for c in settings.classes[1:] if c.name not in gate.allow_unmeasured]
    dice = {c.name: values[class_score("dice", c.name)] for c in settings.classes[1:]}
    unmeasured = {name for name in gate.allow_unmeasured if values[class_score("pixels", name)] == 0}
    rows = {row["slice"]: row for row in slice_rows(totals, settings)}
    return {
        GATE + FOREGROUND_DICE: values[lower(FOREGROUND_DICE) if gate.bound_on == "lower" else FOREGROUND_DICE],
        **({MEASURED: min(values[class_score("pixels", name)] for name in required)} if required else {}),
        GATE + DEFECTS_FOUND: values[DEFECTS_FOUND],
        GATE + FALSE_ALARMS: values[FALSE_ALARMS],
        GATE + FALSE_REGION_DENSITY: values[FALSE_REGION_DENSITY],
        GATE + A90_95: values[A90_95],
        **{GATE + class_score("dice", name): 1.0 if name in unmeasured else score for name, score in dice.items()},
        **{SLICE + name: _slice_value(rows.get(name)) for name in gate.min_slice_dice},
    }


def _slice_words(column: str, value: str) -> str:
    if column != "defects":
        return f"{column} is {value}"
    return f"images with {' and '.join(defects_of(value))}" if value != NO_DEFECT else "images without defect"


def _slice_value(row: "SliceRow | None") -> float:
    if row is None or not row["gated"]:
        return 1.0
    return float("nan") if row["foreground_dice"] is None else row["foreground_dice"]


def _slice_row(name: str, words: str, part: SliceTotals, settings: GateSettings) -> "SliceRow":
    sums = part.sums
    return {
        "slice": name,
        "words": words,
        "images": part.images,
        "groups": len(part.groups),
        "foreground_dice": scores.defined(scores.dice_of_present(sums.counts)),
        "found_share": scores.defined(scores.share(sums.found.sum(), sums.present.sum())),
        "false_alarm_share": scores.defined(scores.share(*sums.alarms)),
        "gated": name in settings.gate.min_slice_dice and len(part.groups) >= settings.gate.min_groups,
    }


def _reliability(totals: Totals) -> "list[ReliabilityBin]":
    calibration = totals.known_sums.calibration
    if not np.isfinite(calibration).all():
        return []
    return [
        {"pixels": pixels, "confidence": confidence / pixels, "accuracy": right / pixels}
        for pixels, confidence, right in calibration.tolist()
        if pixels
    ]


def _dice_sizes(resampled: Resampled) -> Numbers:
    return (resampled.pixels.truth + resampled.pixels.predicted)[..., 1:]


def _single(ratio: Numbers, size: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    return ratio, ratio[:, np.newaxis], size[:, np.newaxis]
