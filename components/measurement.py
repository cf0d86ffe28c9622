"""What the evaluation adds up, image by image: sums, bootstrap resamples, slices, and the images worth looking at.

Everything adds up exactly and in any order: counts are whole numbers in float64, and sums of probabilities are rounded
to multiples of 2**-16, whose sums float64 holds exactly up to 10**11 pixels. Memory does not grow with the images, but
for 8 bytes of each group in a set, and some KB for each class and step of size.
"""

import bisect
import hashlib
import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.bootstrap import group_key, group_weights
from flexunet.core import features, scores
from flexunet.core.config.gate import SIZE_QUARTILES, GateSettings
from flexunet.core.detection import size_step
from flexunet.core.operating_point import DefectRule, Scored, curves_of
from flexunet.core.regions import Defects, find_defects

Numbers = NDArray[np.float64]
# One row of what a signature gives, by name.
Outputs = Mapping[str, np.ndarray]
# Class id and flexunet.core.detection.size_step.
SizeStep = tuple[int, int]
_Key = TypeVar("_Key")

# The median images are exact up to so many images, and of a sample by hash beyond.
_SAMPLED_IMAGES: Final = 1000
# A column such as a serial number has a value for each image: the first so many in alphabetical order are kept.
SLICES_PER_COLUMN: Final = 100
_ROUNDED_TO: Final = 2.0**-16


class Sums(NamedTuple):
    """Counts of one image or many; C classes, 0 is the background.

    `counts`, `model_size_counts` `[C, C]`, rows truth; `probability_sums` `[3]` and `calibration` `[bins, 3]` as the
    `evaluate` signature gives them; `found`, `present` `[C]` defects; `alarms` `[2]`: false alarms, defect-free images;
    `false` `[C]` false regions; `curves` `[2, C, T]`: defects found and false regions at each of THRESHOLDS, T is 0 for
    a model without an operating point.
    """

    counts: Numbers
    model_size_counts: Numbers
    probability_sums: Numbers
    calibration: Numbers
    found: Numbers
    present: Numbers
    alarms: Numbers
    false: Numbers
    curves: Numbers

    def plus(self, other: "Sums") -> "Sums":
        """Both together."""
        return Sums(*(left + right for left, right in zip(self, other, strict=True)))


class Resampled(NamedTuple):
    """What the bootstrap needs, `[resamples, ...]` each, as `Sums` has it."""

    pixels: scores.Margins
    found: Numbers
    present: Numbers
    alarms: Numbers
    false: Numbers
    curves: Numbers


class ImageResult(NamedTuple):
    """One measured image. `slices`: column -> value; `largest_defect`: pixels, 0 for none; `sizes`: defects present and
    found, `[2]`, by class and step of size."""

    image_id: str
    group: int
    sums: Sums
    slices: Mapping[str, str]
    largest_defect: int
    sizes: Mapping[SizeStep, Numbers]

    @property
    def dice(self) -> float:
        """Mean Dice of the classes that the image holds; without a defect 0 for a false alarm, else NaN."""
        return 0.0 if self.sums.alarms[0] == 1 else float(scores.dice_of_present(self.sums.counts))


@dataclass
class SliceTotals:
    """Sums of a slice of at least one image."""

    sums: Sums
    images: int = 0
    groups: set[int] = field(default_factory=set)
    smallest: int = 2**62
    largest: int = 0

    def absorb(self, other: Self) -> None:
        """Takes other images in; `other` stays as it is."""
        self.sums = self.sums.plus(other.sums)
        self.images += other.images
        self.groups |= other.groups
        self.smallest, self.largest = min(self.smallest, other.smallest), max(self.largest, other.largest)


class Ranked(NamedTuple):
    """An image by its Dice; sorts by it, then by id."""

    dice: float
    image_id: str


@dataclass
class Totals:
    """Sums over images, of one model.

    `resampled` is None while there is no image; `sizes` `[1 + resamples, 2]`: defects present and found, by class and
    step of size, as they are and then in each resample.
    """

    images: int = 0
    groups: set[int] = field(default_factory=set)
    sums: Sums | None = None
    resampled: Numbers | None = None
    slices: dict[tuple[str, str], SliceTotals] = field(default_factory=dict)
    size_bins: dict[int, SliceTotals] = field(default_factory=dict)
    sizes: dict[SizeStep, Numbers] = field(default_factory=dict)
    worst: list[Ranked] = field(default_factory=list)
    best: list[Ranked] = field(default_factory=list)
    sample: list[tuple[int, Ranked]] = field(default_factory=list)

    def add(self, image: ImageResult, settings: GateSettings) -> None:
        """Takes one image in."""
        gate = settings.gate
        self.images += 1
        self.groups.add(image.group)
        self.sums = image.sums if self.sums is None else self.sums.plus(image.sums)
        weights = group_weights(gate.seed, image.group, gate.resamples)
        resampled = np.multiply.outer(weights, _vector(image.sums))
        self.resampled = resampled if self.resampled is None else np.add(self.resampled, resampled, out=self.resampled)
        weights = np.concatenate([[1.0], weights])
        _add(self.sizes, {step: np.multiply.outer(weights, counts) for step, counts in image.sizes.items()})
        one = SliceTotals(image.sums, 1, {image.group}, image.largest_defect, image.largest_defect)
        _join(self.slices, dict.fromkeys(image.slices.items(), one))
        if image.largest_defect:
            _join(self.size_bins, {_size_bin(image.largest_defect): one})
        self._rank(image, gate.listed_images)
        self._bound(gate.min_slice_dice)

    def merge(self, other: Self, settings: GateSettings) -> None:
        """Takes other images in; `other` stays as it is."""
        if other.sums is None or other.resampled is None:
            return
        self.images += other.images
        self.groups |= other.groups
        self.sums = other.sums if self.sums is None else self.sums.plus(other.sums)
        self.resampled = other.resampled + (0.0 if self.resampled is None else self.resampled)
        _add(self.sizes, other.sizes)
        _join(self.slices, other.slices)
        _join(self.size_bins, other.size_bins)
        listed = settings.gate.listed_images
        self.worst = sorted(self.worst + other.worst)[:listed]
        self.best = sorted(self.best + other.best)[-listed:]
        self.sample = sorted(self.sample + other.sample)[:_SAMPLED_IMAGES]
        self._bound(settings.gate.min_slice_dice)

    def median(self, count: int) -> list[Ranked]:
        """The `count` images in the middle."""
        ranked = sorted(image for _, image in self.sample)
        start = max(0, (len(ranked) - count) // 2)
        return ranked[start : start + count]

    def size_quartiles(self) -> dict[str, SliceTotals]:
        """Totals of the images with defects by their largest one, divided into four slices of about as many images.

        Edges are those of bins, a quarter of a doubling wide: exact quartiles would need every image's size.
        """
        total = sum(part.images for part in self.size_bins.values())
        quartiles: dict[str, SliceTotals] = {}
        before = 0
        for _, part in sorted(self.size_bins.items()):
            middle = before + part.images / 2
            _join(quartiles, {SIZE_QUARTILES[min(3, int(4 * middle / total))]: part})
            before += part.images
        return quartiles

    @property
    def known_sums(self) -> Sums:
        """The sums.

        Raises:
          ValueError: there was no image.
        """
        if self.sums is None:
            raise ValueError("no image reached the evaluation, expected at least one record in the split")
        return self.sums

    def _rank(self, image: ImageResult, listed: int) -> None:
        if np.isnan(image.dice):
            return
        ranked = Ranked(image.dice, image.image_id)
        digest = hashlib.blake2b(image.image_id.encode(), digest_size=8).digest()
        for keep, item, size in (
            (self.worst, ranked, listed),
            (self.sample, (int.from_bytes(digest, "big"), ranked), _SAMPLED_IMAGES),
        ):
            bisect.insort(keep, item)
            del keep[size:]
        bisect.insort(self.best, ranked)
        del self.best[:-listed]

    def _bound(self, gated: Collection[str]) -> None:
        """Keeps the gated and then the first values of each column: in whatever order, their sums are whole."""
        if len(self.slices) <= SLICES_PER_COLUMN:
            return
        for column in {column for column, _ in self.slices}:
            values = [value for name, value in self.slices if name == column]
            values.sort(key=lambda value: (f"{column}={value}" not in gated, value))
            for value in values[SLICES_PER_COLUMN:]:
                del self.slices[column, value]


def measure_image(outputs: Outputs, metadata: Mapping[str, str], settings: GateSettings) -> ImageResult:
    """From one row of the `evaluate` signature's outputs and the record's metadata columns."""
    num_classes = len(settings.classes)
    truth, predicted = (_decode(outputs[key]) for key in (features.OUTPUT_TRUTH_PNG, features.OUTPUT_PREDICTED_PNG))
    gate = settings.gate
    defects = find_defects(truth, predicted, num_classes, gate.defect_overlap, gate.false_alarm_share)
    rule = DefectRule(gate.defect_overlap, gate.false_alarm_share)
    kinds = [c.name for c, number in zip(settings.classes, defects.present, strict=True) if number]
    return ImageResult(
        image_id=_text(outputs[features.OUTPUT_IMAGE_ID]),
        group=group_key(np.asarray(outputs[features.OUTPUT_GROUP]).item()),
        sums=_sums(outputs, defects, _curves(outputs, truth, num_classes, rule)),
        slices={"defects": features.defects_value(kinds), **metadata},
        largest_defect=defects.largest,
        sizes=_sizes(defects),
    )


def resamples_of(totals: Totals) -> Resampled:
    """The bootstrap's sums by name."""
    sums, resampled = totals.known_sums, np.asarray(totals.resampled)
    num_classes = len(sums.present)
    parts = np.split(resampled, [*(np.arange(1, 7) * num_classes), 6 * num_classes + 2], axis=-1)
    margins, curves = scores.Margins(*parts[:3]), parts[7].reshape(len(resampled), *sums.curves.shape)
    return Resampled(margins, parts[3], parts[4], alarms=parts[6], false=parts[5], curves=curves)


def _vector(sums: Sums) -> Numbers:
    parts = [*scores.margins(sums.counts), sums.found, sums.present, sums.false, sums.alarms, sums.curves.ravel()]
    return np.concatenate(parts)


def _curves(outputs: Outputs, truth: NDArray[np.uint8], num_classes: int, rule: DefectRule) -> Numbers:
    """`Sums.curves` of one image."""
    if features.OUTPUT_SCORED_PNG not in outputs:
        return np.zeros((2, num_classes, 0))
    scored = Scored(*np.moveaxis(_decode(outputs[features.OUTPUT_SCORED_PNG]), -1, 0))
    counted = curves_of(truth, scored, num_classes, rule)
    return np.stack([counted.found, counted.false])


def _sums(outputs: Outputs, defects: Defects, curves: Numbers) -> Sums:
    def rounded(key: str) -> Numbers:
        return np.round(np.asarray(outputs[key], np.float64) / _ROUNDED_TO) * _ROUNDED_TO

    counts = np.asarray(outputs[features.OUTPUT_COUNTS], np.float64)
    # A model that gives no numbers predicts nothing, and must not be praised for raising no alarm.
    defined = 1.0 if np.isfinite(counts).all() else np.nan
    return Sums(
        counts=counts,
        model_size_counts=np.asarray(outputs[features.OUTPUT_MODEL_SIZE_COUNTS], np.float64),
        probability_sums=rounded(features.OUTPUT_PROBABILITY_SUMS),
        calibration=rounded(features.OUTPUT_CALIBRATION),
        found=defects.found * defined,
        present=defects.present,
        alarms=np.array([defects.alarm * defined, defects.clean]),
        false=defects.false * defined,
        curves=curves * defined,
    )


def _sizes(defects: Defects) -> dict[SizeStep, Numbers]:
    sizes: dict[SizeStep, Numbers] = {}
    for class_id, pixels, found in defects.each.tolist():
        step = class_id, size_step(pixels)
        sizes[step] = sizes.get(step, 0.0) + np.array([1.0, found])
    return sizes


def _add(totals: dict[SizeStep, Numbers], more: Mapping[SizeStep, Numbers]) -> None:
    for step, counts in more.items():
        totals[step] = totals[step] + counts if step in totals else counts


def _join(totals: dict[_Key, SliceTotals], more: Mapping[_Key, SliceTotals]) -> None:
    for key, part in more.items():
        if key in totals:
            totals[key].absorb(part)
        else:
            # A set of its own: `part` stays as it is when others are absorbed.
            totals[key] = replace(part, groups=set(part.groups))


def _size_bin(pixels: int) -> int:
    return int(4 * np.log2(pixels))


def _decode(encoded: np.ndarray) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(np.asarray(encoded).item())))


def _text(value: np.ndarray) -> str:
    return np.asarray(value).item().decode("utf-8", "replace")
