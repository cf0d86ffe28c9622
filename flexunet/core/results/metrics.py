"""`metrics.json` and `details.json`: what a model scored and what the gate said. docs/reference/metrics.md shows it.

For class c, over all images of the split: TP pixels of c predicted as c, FN pixels of c predicted otherwise, FP others
predicted as c. p(x) is the probability that the model gives to the true class of pixel x, N the number of labelled
pixels. None is what is undefined or was not measured.
"""

from typing import Final, TypedDict

from flexunet.core.results.operating import OperatingPoint
from flexunet.core.results.verdict import Verdict

FORMAT: Final = 1
# Of a check on the whole split.
OVERALL: Final = "Overall"


class ClassScores(TypedDict):
    """Scores of one class, from counts pooled over the split: no mean over images."""

    dice: float | None
    """2 TP / (2 TP + FP + FN)"""
    iou: float | None
    """TP / (TP + FP + FN)"""
    precision: float | None
    """TP / (TP + FP)"""
    recall: float | None
    """TP / (TP + FN)"""
    pixels: float | None
    """TP + FN, the pixels of the class in the truth"""


class Defects(TypedDict):
    """Shares of defects and of images; a defect is a connected region of one class in the truth, corners included."""

    found_share: float | None
    """defects of which at least `gate.defect_overlap` of the pixels were predicted as their class / all defects"""
    false_alarm_share: float | None
    """defect-free images of which at least `gate.false_alarm_share` was predicted as defect / all defect-free images"""
    present: float | None
    """defects of the split"""
    found: float | None
    """those of them that were found"""
    false_regions: float | None
    """connected regions predicted as one class of which most lies outside all defects, `gate.false_alarm_share` of the image or more; on all images"""  # noqa: E501
    false_regions_per_megapixel: float | None
    """`false_regions` / labelled pixels in millions"""
    a90_95: float | None
    """size, the side of the square of its area in pixels, from which on 90 % of the defects are found, at 95 % confidence: MIL-HDBK-1823A; never below the smallest defect; `null` where the split proves none"""  # noqa: E501


class Check(TypedDict):
    """A check of the gate."""

    check: str
    """what was checked: a score, or `measured`, or `accepted` for the reason of the person who overruled the gate"""
    slice: str
    """`Overall`, or the slice"""
    value: float | None
    """what was found"""
    bound: float | None
    """what it was held against; inclusive"""
    passed: bool
    """whether the check passed; an undefined value fails"""
    words: str
    """all of it in a sentence"""


class SliceRow(TypedDict):
    """A slice of the split. Its Dice counts only the classes that its truth holds."""

    slice: str
    """its name, `column=value`"""
    words: str
    """what its images are"""
    images: int
    """how many there are"""
    groups: int
    """their groups of near-duplicates"""
    foreground_dice: float | None
    """mean of `dice` over the defect classes that the slice holds"""
    found_share: float | None
    """as in `defects`"""
    false_alarm_share: float | None
    """as in `defects`"""
    gated: bool
    """whether the gate has a bound on it, and the slice enough groups"""


class Baseline(TypedDict):
    """The newest pushed model, measured on the same images."""

    model: str
    """where it lies"""
    foreground_dice: float | None
    """its headline"""
    difference: float | None
    """candidate minus baseline"""
    difference_interval: list[float] | None
    """95 % interval of the difference, paired over groups"""


class Scores(TypedDict):
    """The part of `metrics.json` that the evaluation alone decides."""

    blessed: bool
    """whether every check of the gate passed: TFMA's own verdict"""
    examples: int
    """images of the split"""
    groups: int
    """their groups of near-duplicates"""
    gate: list[Check]
    """every check, passed or failed"""
    foreground_dice: float | None
    """**the headline**: mean of `dice` over the defect classes that have one"""
    foreground_dice_interval: list[float] | None
    """its 95 % interval, `[lower, upper]`, by a bootstrap over groups: [the gate](../explanation/gate.md)"""
    foreground_dice_model_size: float | None
    """the same at the model's size, before small regions are removed; pixels that tiles share count twice"""
    mean_iou: float | None
    """mean of `iou` over the defect classes that have one"""
    mean_iou_with_background: float | None
    """mean of `iou` over all classes that have one"""
    pixel_accuracy: float | None
    """Σ TP over all classes / N; never gated: background everywhere scores high"""
    seed_dice: float | None
    """Σ p(x) / N, soft Dice with the background in it: an accuracy under another name, never gated"""
    cross_entropy: float | None
    """−Σ ln p(x) / N"""
    calibration_error: float | None
    """Σ over 15 bins of abs(Σ confidence − right) / N; confidence: the top class's probability, right: how many pixels it was right on"""  # noqa: E501
    classes: dict[str, ClassScores]
    """by name"""
    defects: Defects
    """found and missed defects, and false alarms"""
    slices: list[SliceRow]
    """by size of the largest defect, by the defects present, and by each column of `gate.slice_columns`"""


class Metrics(Scores):
    """`metrics.json`."""

    format: int
    """1; raised when a key changes its meaning"""
    run_id: str | None
    """of the run, as ML Metadata knows it; `null` outside a pipeline"""
    verdict: Verdict
    """what became of the model; `flexunet evaluate` asks the gate alone"""
    problems: list[str]
    """why it was refused: the failed checks, or what serving it would break on; empty if it was accepted"""
    next_step: str | None
    """what a person can do about a refusal"""
    pushed_version: int | None
    """the version that holds this model now; `null` if nothing was pushed"""
    split: str
    """`test`"""
    operating_point: OperatingPoint | None
    """which thresholds the model has, chosen on `eval`; `null`: every pixel has its most probable class"""
    baseline: Baseline | None
    """`null` for the first model, and where no other comparable one was pushed"""
    parameters: int | None
    """weights of the model; `null` for one trained elsewhere"""
    train_seconds: float | None
    """what its training took"""


class ReliabilityBin(TypedDict):
    """Pixels whose top class has a probability within one of 15 bins."""

    pixels: float
    """how many"""
    confidence: float
    """their mean probability"""
    accuracy: float
    """share of them that was right"""


class ListedImage(TypedDict):
    """An image worth looking at."""

    id: str
    """as in the records"""
    dice: float
    """mean over the classes that the image holds; 0 for a false alarm"""


class ListedImages(TypedDict):
    """Up to `gate.listed_images` each of the first three."""

    worst: list[ListedImage]
    """the worst first"""
    median: list[ListedImage]
    """those in the middle"""
    best: list[ListedImage]
    """the best first"""
    shown: list[ListedImage]
    """up to `gate.shown_images` of those with a defect or a false alarm, the worst first"""


class BaselineClass(TypedDict):
    """A class of the baseline."""

    dice: float | None
    """its Dice"""
    interval: list[float] | None
    """its 95 % interval"""


class BaselineDetails(TypedDict):
    """The baseline on the same images."""

    foreground_dice: float | None
    """its headline"""
    foreground_dice_interval: list[float] | None
    """the 95 % interval of that"""
    classes: dict[str, BaselineClass]
    """the defect classes by name"""


class SizeShare(TypedDict):
    """Defects of about one size: within an eighth of a doubling of the area."""

    size: float
    """side of the square of the area, in pixels"""
    present: float
    """how many there are"""
    found: float
    """how many of them were found"""


class Detection(TypedDict):
    """Probability of detection against size, MIL-HDBK-1823A: ln(p / (1 - p)) = intercept + slope ln(size)."""

    name: str
    """a defect class, or `all defects`"""
    sizes: list[SizeShare]
    """what the curve was fitted to, ascending"""
    observations: float
    """as how many the defects count for `a90_95`: those of a group of near-duplicates together as one"""
    intercept: float | None
    """`null` where no curve fits: nothing was missed, nothing found, or sizes of both do not overlap"""
    slope: float | None
    """above 0 where larger defects are found more often"""
    a90: float | None
    """size of which 90 % are found, by the curve; `null` outside of `sizes`"""
    a90_95: float | None
    """its upper bound at 95 % confidence, by the profile likelihood, without a curve from 29 found and none missed; the smallest size where 90 % are proven at all; `null` where nothing is proven, or of fewer than 29 observations"""  # noqa: E501
    band: list[list[float]]
    """`[size, lower, upper]`: the 95 % interval of the curve, by the bootstrap over groups"""


class CurvePoint(TypedDict):
    """A class at a threshold of its probability."""

    name: str
    """the defect class"""
    threshold: float
    """what the probability must be above"""
    found_share: float | None
    """of the defects of the class"""
    found_interval: list[float] | None
    """its 95 % interval"""
    false_regions_per_megapixel: float | None
    """of the class"""
    false_interval: list[float] | None
    """its 95 % interval"""


class Details(TypedDict):
    """`details.json`: what the contract of `metrics.json` has no place for."""

    warnings: list[str]
    """sentences, such as that the interval of so few groups is rough"""
    intervals: dict[str, list[float] | None]
    """95 % intervals of the other scores, by name"""
    defects_found: dict[str, float | None]
    """`found_share` by class"""
    detection: list[Detection]
    """found defects against their size; all together first"""
    curves: list[CurvePoint]
    """found defects against false regions, by class and threshold; empty for a model without an operating point"""
    reliability: list[ReliabilityBin]
    """bins of the top class's probability"""
    images: ListedImages
    """images worth looking at"""
    confusion: list[list[float]] | None
    """pixels, a row for each true class, a column for each predicted one; `null` if the model gave no number"""
    baseline: BaselineDetails | None
    """`null` for the first model"""


class Listed(TypedDict):
    """What the evaluation leaves that is no single number."""

    slices: list[SliceRow]
    detection: list[Detection]
    curves: list[CurvePoint]
    reliability: list[ReliabilityBin]
    images: ListedImages
