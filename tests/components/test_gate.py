"""The gate: six verdicts by TFX's real Evaluator, which must be those of its parts on values, the others by these.

The images show what the model answers: `color_reader()` reads class ids off the colours, so that a record is a pair of
any prediction and any truth.
"""

# Before TFMA, which lacks half its names unless TFX has stood in for what its libraries dropped.
from tfx import v1  # noqa: F401

# isort: split
import json
import pickle
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import steel
import tensorflow as tf
import tensorflow_model_analysis as tfma
from apache_beam.internal import pickler
from evaluation import evaluate_values
from examples import serialized, write_examples
from numpy.typing import NDArray
from pictures import encoded
from PIL import UnidentifiedImageError
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score
from tensorflow_model_analysis.utils.model_util import ModelSignaturesDoFn
from tfx.components.util import udf_utils

from components import evaluated_model, gate
from components.segmentation_metrics import SegmentationScores
from flexunet.core.config.gate import GateSettings
from flexunet.core.config.section import part_of
from flexunet.core.config.train import TrainerConfig
from flexunet.core.config.whole import Config
from flexunet.core.features import OUTPUT_TRUTH_PNG, SIGNATURE_EVALUATE
from pipeline.evaluation import make_eval_config
from pipeline.measure import evaluate
from trainer_module.export import export_model
from trainer_module.model import build_model

Ids = NDArray[np.uint8]
Pair = tuple[Ids, Ids]
IGNORED = 255
# Black is background, and then blue, green and red; grey for pixels that nobody labelled.
COLORS = np.zeros((256, 3), np.uint8)
COLORS[:4] = steel.COLORS
COLORS[IGNORED] = (9, 9, 9)
RECORDS = {"ignore_color": [9, 9, 9]}


def write_records(folder: Path, pairs: Sequence[Pair], groups: Sequence[str] = (), **metadata: Sequence[str]) -> Path:
    """Pairs of an image, or the class ids that it shows, and true ids; each a group of its own unless `groups` says."""

    def example(index: int, predicted: Any, truth: Ids) -> bytes:
        values = {
            "image/encoded": encoded(COLORS[predicted] if predicted.ndim == 2 else predicted),
            "mask/encoded": encoded(COLORS[truth]),
            "image/id": f"{index:03d}",
            "image/group": groups[index] if groups else f"{index:03d}",
        }
        return serialized(values | {f"metadata/{key}": v[index] for key, v in metadata.items() if v[index]})

    write_examples(folder / "records.tfrecord.gz", (example(i, *pair) for i, pair in enumerate(pairs)))
    return folder


def striped(shift: int = 0, classes: Sequence[int] = (1, 2, 3), size: int = 32) -> Ids:
    """A bar of 6 rows for each of `classes`."""
    ids = np.zeros((size, size), np.uint8)
    for class_id in classes:
        ids[8 * class_id : 8 * class_id + 6, shift : shift + 12] = class_id
    return ids


PERFECT = [(striped(i), striped(i)) for i in range(12)]


class Measured:
    """What one evaluation said."""

    def __init__(self, evaluation: gate.Evaluation, settings: GateSettings) -> None:
        self.evaluation, self.blessed = evaluation, evaluation.validation_ok
        self.metrics = gate.metrics_json(self.evaluation, settings)
        self.details = gate.details_json(self.evaluation, settings)
        self.checks = self.metrics["gate"]
        self.verdicts = {
            (c["check"], c["slice"])[0 if c["slice"] == "Overall" else 1]: c["passed"] for c in self.checks
        }
        # The rule of the house: the checks add up to TFX's own blessing.
        assert all(self.verdicts.values()) == self.blessed
        assert json.loads(json.dumps(self.metrics, allow_nan=False)) == self.metrics
        json.dumps(self.details, allow_nan=False)

    def words(self, check: str) -> str:
        return next(c["words"] for c in self.checks if check in (c["check"], c["slice"]))

    def rounded(self) -> Any:
        """All of it, for a comparison: sums of floats depend on their order."""
        baseline = gate.baseline_json(self.evaluation, "") if self.evaluation.has_baseline else None
        text = json.dumps([self.metrics, self.details, baseline])
        return json.loads(text, parse_float=lambda number: round(float(number), 6))


Measure = Callable[..., Measured]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, make_config: Any, color_reader: Any) -> Callable[..., Path]:
    """`exported(blind=3)`: a color_reader as a SavedModel, exported once for each set of arguments."""
    folder, made = tmp_path_factory.mktemp("models"), {}

    def export(**arguments: Any) -> Path:
        key = json.dumps(arguments)
        if key not in made:
            made[key] = folder / str(len(made))
            config = part_of(make_config(records=RECORDS), TrainerConfig)
            export_model(color_reader(**arguments), config, {}, made[key])
        return made[key]

    return export


@pytest.fixture
def measure(tmp_path: Path, make_config: Callable[..., Config], exported: Callable[..., Path]) -> Measure:
    """Measures a model on `pairs`; settings of the gate by name."""

    def run(
        pairs: Sequence[Pair] = PERFECT,
        model: Path | None = None,
        baseline: Path | None = None,
        groups: Sequence[str] = (),
        metadata: dict[str, Sequence[str]] | None = None,
        node: Path | None = None,
        **bounds: Any,
    ) -> Measured:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        records = write_records(folder / "records", pairs, groups, **(metadata or {}))
        config = make_config(records=RECORDS, gate={"min_foreground_dice": 0.9, **bounds})
        models, settings = [m for m in (model or exported(), baseline) if m is not None], part_of(config, GateSettings)
        measured = Measured(evaluate_values(models, records, settings), settings)
        if node is None:
            return measured
        node.mkdir()
        blessed = evaluate(models, [records], config, node)
        by_node = Measured(gate.read_evaluation(str(node / "evaluation")), settings)
        assert by_node.blessed == blessed
        assert by_node.rounded() == measured.rounded()
        return by_node

    return run


@pytest.fixture
def measure_by_node(measure: Measure, tmp_path: Path) -> Measure:
    """The same by the Evaluator's executor, which writes `node/evaluation`, held against the parts on values."""
    return partial(measure, node=tmp_path / "node")


def background_everywhere(exported: Callable[..., Path]) -> Path:
    return exported(bias=(60.0, 0.0, 0.0, 0.0))


def test_a_perfect_model_is_blessed(measure_by_node: Measure) -> None:
    measured = measure_by_node()
    metrics = measured.metrics
    assert measured.blessed
    assert metrics["foreground_dice"] == metrics["foreground_dice_model_size"] == metrics["mean_iou"] == 1.0
    assert metrics["foreground_dice_interval"] == [1.0, 1.0]
    assert metrics["classes"]["scratches"] == {"dice": 1, "iou": 1, "precision": 1, "recall": 1, "pixels": 12 * 72}
    assert (metrics["examples"], metrics["groups"]) == (12, 12)
    assert (metrics["defects"]["found_share"], metrics["defects"]["false_alarm_share"]) == (1.0, None)
    assert measured.verdicts == {"foreground_dice": True, "measured": True}


def test_all_background_is_refused_though_pixel_accuracy_and_the_seeds_dice_are_high(
    measure: Measure, exported: Any
) -> None:
    """SEED defect 1."""
    measured = measure(model=background_everywhere(exported))
    metrics = measured.metrics
    assert not measured.blessed
    assert metrics["foreground_dice"] == metrics["defects"]["found_share"] == 0.0
    assert metrics["pixel_accuracy"] > 0.7
    assert metrics["seed_dice"] == pytest.approx(metrics["pixel_accuracy"], abs=1e-4)


def test_one_class_everywhere_is_refused(measure: Measure, exported: Any) -> None:
    assert not measure(model=exported(bias=(0.0, 0.0, 60.0, 0.0)), bound_on="point").blessed


def test_an_untrained_model_is_refused(measure: Measure, make_config: Any, tmp_path: Path) -> None:
    config = make_config(records=RECORDS)
    model = build_model(config)
    export_model(model, part_of(config, TrainerConfig), {}, tmp_path / "untrained")
    assert not measure(model=tmp_path / "untrained").blessed


def test_shuffled_labels_are_refused(measure: Measure) -> None:
    truths = [striped(i, size=32) for i in range(0, 20, 2)]
    assert not measure(list(zip(truths, truths[5:] + truths[:5], strict=True)), min_foreground_dice=0.5).blessed


def test_a_model_that_answers_nan_is_refused(measure_by_node: Measure, exported: Any) -> None:
    measured = measure_by_node(model=exported(bias=(float("nan"),) * 4), min_defects_found=0.1, max_false_alarms=1.0)
    assert not any(measured.verdicts.values())
    assert measured.metrics["foreground_dice"] is measured.metrics["foreground_dice_interval"] is None
    assert measured.metrics["calibration_error"] is measured.metrics["defects"]["found_share"] is None
    words = measured.words("foreground_dice")
    assert words.startswith("foreground Dice is undefined (the model gave no number), at least ")
    assert "the model gave no number" in measured.words("measured")


def test_good_on_average_and_blind_to_one_class_is_refused_by_that_class_bound(measure: Measure, exported: Any) -> None:
    bounds = {"min_foreground_dice": 0.5, "min_class_dice": {"scratches": 0.1, "patches": 0.9}}
    measured = measure(model=exported(blind=3), **bounds)
    assert measured.verdicts == {
        "foreground_dice": True, "measured": True, "dice/patches": True, "dice/scratches": False
    }  # fmt: skip
    assert "Dice of scratches is 0.0000, at least 0.1000 is required" in measured.words("dice/scratches")


def test_worse_than_the_baseline_is_refused(measure_by_node: Measure, exported: Any) -> None:
    measured = measure_by_node(model=exported(blind=3), baseline=exported(), min_foreground_dice=0.5)
    assert measured.verdicts == {"foreground_dice": True, "foreground_dice against baseline": False, "measured": True}
    assert measured.evaluation.difference("foreground_dice") == pytest.approx(-1 / 3, abs=1e-6)
    baseline = gate.baseline_json(measured.evaluation, "there")
    assert baseline["foreground_dice"] == 1.0 and baseline["difference_interval"] == [pytest.approx(-1 / 3)] * 2


def test_equal_to_the_baseline_is_blessed(measure_by_node: Measure, exported: Any) -> None:
    measured = measure_by_node(baseline=exported(), max_regression=0.0)
    assert measured.blessed
    assert [check["value"] for check in measured.checks] == [1.0, 0.0, 12 * 72]
    assert "changed by +0.0000 (95 % interval +0.0000 to +0.0000)" in measured.words("foreground_dice against baseline")


def test_better_than_the_baseline_but_below_the_bound_is_refused(measure: Measure, exported: Any) -> None:
    measured = measure(model=exported(blind=3), baseline=background_everywhere(exported))
    assert not measured.blessed
    assert measured.evaluation.difference("foreground_dice") > 0.6


def noisy_pairs(count: int, seed: int, size: tuple[int, int] = (32, 32), classes: int = 4) -> list[Pair]:
    """Blobs of defects and predictions that miss some and invent some."""
    generator = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        truth, predicted = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        for _ in range(4):
            row, column, class_id = *generator.integers(0, [size[0] - 6, size[1] - 6]), generator.integers(1, classes)
            truth[row : row + 6, column : column + 6] = class_id
            if generator.random() < 0.8:
                predicted[row + 1 : row + 6, column : column + 6] = class_id
        noise = generator.random(size) < 0.02
        predicted[noise] = generator.integers(0, classes, noise.sum())
        pairs.append((predicted, truth))
    return pairs


def with_ignored(pairs: Sequence[Pair]) -> list[Pair]:
    """The left quarter is not labelled."""
    ignored = []
    for predicted, truth in pairs:
        ids = truth.copy()
        ids[:, : ids.shape[1] // 4] = IGNORED
        ignored.append((predicted, ids))
    return ignored


def with_one_pixel() -> list[Pair]:
    truth, predicted = np.zeros((2, 32, 32), np.uint8)
    truth[3, 4], predicted[3, 4], predicted[20, 20] = 1, 1, 2
    return [(predicted, truth)]


ALL_ONE_CLASS = [(np.full((32, 32), 2, np.uint8), np.full((32, 32), 2, np.uint8))] * 2
ADVERSARIAL = {
    "random": noisy_pairs(9, seed=1),
    "absent class": noisy_pairs(4, seed=3, classes=3),
    "single pixel in one image": with_one_pixel(),
    "all one class": ALL_ONE_CLASS,
    "ignored pixels": with_ignored(noisy_pairs(6, seed=4)),
}


@pytest.mark.parametrize("pairs", ADVERSARIAL.values(), ids=ADVERSARIAL.keys())
def test_scores_equal_scikit_learns(measure: Measure, color_reader: Any, exported: Any, pairs: list[Pair]) -> None:
    """Dimmed at random, so that the model is of every confidence, and sometimes wrong with it."""
    generator, unsure = np.random.default_rng(0), (14.0, 13.0, 12.0, 11.0)
    dimmed = [generator.uniform(0.1, 1, (*predicted.shape, 1)) * COLORS[predicted] for predicted, _ in pairs]
    images = [image.astype(np.uint8) for image in dimmed]
    truths = [truth for _, truth in pairs]
    metrics = measure(list(zip(images, truths, strict=True)), model=exported(bias=unsure)).metrics
    model = color_reader(bias=unsure)
    probabilities = np.concatenate([np.asarray(model(image[np.newaxis])).reshape(-1, 4) for image in images])
    probabilities = probabilities.astype(np.float64)
    truth = np.concatenate([truth.ravel() for _, truth in pairs])
    probabilities, truth = probabilities[truth != IGNORED], truth[truth != IGNORED]
    answer = probabilities.argmax(axis=-1)
    for name, function in (("iou", jaccard_score), ("precision", precision_score), ("recall", recall_score)):
        check_classes(metrics, name, truth, answer, function)
    check_classes(metrics, "dice", truth, answer, f1_score)
    seen = [i for i in (1, 2, 3) if (truth == i).any() or (answer == i).any()]
    macro = f1_score(truth, answer, labels=seen, average="macro", zero_division=0.0)
    assert metrics["foreground_dice"] == pytest.approx(macro, abs=1e-6)
    assert metrics["foreground_dice_model_size"] == pytest.approx(macro, abs=1e-6)
    assert metrics["pixel_accuracy"] == pytest.approx((truth == answer).mean(), abs=1e-6)
    true = probabilities[np.arange(truth.size), truth]
    assert metrics["seed_dice"] == pytest.approx(true.mean(), abs=1e-4)
    # Keras' own epsilon: one pixel that is certain and wrong costs 16, not infinity.
    assert metrics["cross_entropy"] == pytest.approx(-np.log(true.clip(1e-7)).mean(), abs=1e-4)
    assert metrics["calibration_error"] == pytest.approx(calibration_error(probabilities, truth), abs=1e-4)


def check_classes(metrics: Any, name: str, truth: Any, answer: Any, function: Any) -> None:
    """scikit-learn says 0 where we say None: a class of which nothing is there."""
    expected = function(truth, answer, labels=range(4), average=None, zero_division=0.0)
    for class_id, (class_name, row) in enumerate(metrics["classes"].items()):
        there = {"precision": answer == class_id, "recall": truth == class_id}
        if not there.get(name, (truth == class_id) | (answer == class_id)).any():
            assert row[name] is None, class_name
        else:
            assert row[name] == pytest.approx(expected[class_id], abs=1e-6), class_name


def calibration_error(probabilities: NDArray[np.float64], truth: NDArray[np.uint8]) -> float:
    confidence, right = probabilities.max(axis=-1), probabilities.argmax(axis=-1) == truth
    bins = np.digitize(confidence, np.arange(1, 15) / 15, right=True)
    gaps = [abs(right[bins == b].sum() - confidence[bins == b].sum()) for b in range(15)]
    return sum(gaps) / truth.size


def test_images_count_at_their_own_size_and_at_the_models(measure: Measure) -> None:
    """The model sees 32x32: edges at odd rows fall between its pixels, and the way back to 64x64 cannot tell them."""
    truth = np.zeros((64, 64), np.uint8)
    truth[11:20, 11:20], truth[31:40, 11:20], truth[51:60, 11:20] = 1, 2, 3
    metrics = measure([(truth, truth)] * 2, bound_on="point").metrics
    assert sum(row["pixels"] for row in metrics["classes"].values()) == 2 * 64 * 64
    assert metrics["foreground_dice_model_size"] != metrics["foreground_dice"]
    assert 0.8 < metrics["foreground_dice"] < 1.0


def halves(count: int, bad: int) -> list[Pair]:
    """`count` images, of which the first `bad` find nothing."""
    return [(np.zeros_like(striped(i)) if i < bad else striped(i), striped(i)) for i in range(count)]


def test_the_bound_is_on_the_lower_end_unless_the_config_says_otherwise(measure: Measure) -> None:
    lower = measure(halves(12, 2), min_foreground_dice=0.85)
    point = measure(halves(12, 2), min_foreground_dice=0.85, bound_on="point")
    low, high = lower.metrics["foreground_dice_interval"]
    assert lower.metrics["foreground_dice"] == pytest.approx(2 * 10 / 22)
    assert low < 0.85 < lower.metrics["foreground_dice"] < high
    assert (lower.blessed, point.blessed) == (False, True)
    assert lower.checks[0]["value"] == low and point.checks[0]["value"] == lower.metrics["foreground_dice"]
    words = f"95 % interval {low:.4f} to {high:.4f}: its lower end must be at least 0.8500"
    assert words in lower.words("foreground_dice")


def test_near_duplicates_count_as_one_observation(measure: Measure) -> None:
    """Twelve images in three groups say less than in twelve; a single group has no interval, and is refused."""
    alone = measure(halves(12, 3)).metrics["foreground_dice_interval"]
    grouped = measure(halves(12, 3), groups=[str(i % 3) for i in range(12)])
    low, high = grouped.metrics["foreground_dice_interval"]
    assert grouped.metrics["groups"] == 3
    assert "3 groups of test images" in grouped.details["warnings"][0]
    assert high - low != pytest.approx(alone[1] - alone[0])
    single = measure(groups=["a"] * 12)
    assert single.metrics["foreground_dice_interval"] is None and not single.blessed
    assert "a single group has none" in single.words("foreground_dice")


def test_the_difference_is_paired(measure: Measure, exported: Any) -> None:
    """Both models miss the same images: the interval of the difference is far narrower than either's own."""
    measured = measure(halves(12, 4), baseline=exported(), min_foreground_dice=0.1)
    low, high = measured.evaluation.interval("foreground_dice_difference")
    own = measured.metrics["foreground_dice_interval"]
    assert low == high == 0.0 and own[1] - own[0] > 0.2


def test_a_class_without_pixels_is_not_measured_and_refuses_unless_it_is_named(measure: Measure) -> None:
    pairs = [(striped(i, classes=(1, 2)), striped(i, classes=(1, 2))) for i in range(6)]
    refused = measure(pairs)
    assert refused.verdicts == {"foreground_dice": True, "measured": False}
    assert "not measured: scratches (no pixel in the test split" in refused.words("measured")
    allowed = measure(pairs, allow_unmeasured=["scratches"], min_class_dice={"scratches": 0.9, "patches": 0.9})
    assert allowed.verdicts == {
        "foreground_dice": True, "measured": True, "dice/scratches": True, "dice/patches": True
    }  # fmt: skip
    assert "not measured, which gate.allow_unmeasured allows" in allowed.words("dice/scratches")
    assert allowed.metrics["classes"]["scratches"]["dice"] is None


def test_an_allowed_class_that_has_pixels_is_gated_all_the_same(measure: Measure, exported: Any) -> None:
    settings = {"allow_unmeasured": ["scratches"], "min_class_dice": {"scratches": 0.9}, "min_foreground_dice": 0.1}
    assert measure(model=exported(blind=3), **settings).verdicts["dice/scratches"] is False


def test_defects_found_and_false_alarms_can_be_gated(measure: Measure) -> None:
    clean, alarm = np.zeros((32, 32), np.uint8), striped(classes=(1,))
    pairs = [*halves(4, 1), (clean, clean), (clean, clean), (clean, clean), (alarm, clean)]
    bounds = {"min_foreground_dice": 0.01, "bound_on": "point"}
    strict = measure(pairs, min_defects_found=0.76, max_false_alarms=0.24, **bounds)
    defects = strict.metrics["defects"]
    assert (defects["found_share"], defects["false_alarm_share"]) == (0.75, 0.25)
    # The alarm is a false region too, on a split of eight images of 32 x 32.
    assert (defects["present"], defects["found"], defects["false_regions"]) == (12, 9, 1)
    assert defects["false_regions_per_megapixel"] == pytest.approx(1e6 / (8 * 32 * 32))
    assert (strict.verdicts["defects_found"], strict.verdicts["false_alarms"]) == (False, False)
    assert measure(pairs, min_defects_found=0.75, max_false_alarms=0.25, **bounds).blessed
    # Three quarters are found whatever their size: no size is proven.
    assert strict.metrics["defects"]["a90_95"] is None
    assert measure(pairs, max_false_regions=122.1, **bounds).blessed
    assert measure(pairs, max_false_regions=122.0, **bounds).verdicts["false_regions_per_megapixel"] is False
    assert strict.details["defects_found"] == {"inclusion": 0.75, "patches": 0.75, "scratches": 0.75}


def test_what_the_images_cannot_tell_is_refused_with_that_reason(measure: Measure) -> None:
    """Of a perfect model, on images that all have a defect: three in each of twelve groups."""
    measured = measure(max_false_alarms=0.5, max_a90_95=1000.0)
    assert not measured.verdicts["false_alarms"] and not measured.verdicts["a90_95"]
    assert "the share of false alarms is undefined (no test image is without defect), at most" in measured.words(
        "false_alarms"
    )
    words = measured.words("a90_95")
    assert "their defects, those of near-duplicates together, count as" in words and "at least 29 are needed" in words
    many = measure([(striped(i % 12), striped(i % 12)) for i in range(60)], max_a90_95=1.0)
    assert not many.verdicts["a90_95"] and "the smallest of the test images: nothing is known below" in many.words(
        "a90_95"
    )


def test_slices_are_measured_and_gated_from_so_many_groups_on(measure: Measure, measure_by_node: Measure) -> None:
    clean = np.zeros((32, 32), np.uint8)
    only = [(clean, striped(i, classes=(3,))) for i in range(3)]
    pairs = [*halves(6, 0), *only, (clean, clean)]
    lines = ["A"] * 6 + ["B"] * 4
    bounds = {"defects=scratches": 0.5, "line=A": 0.9, "line=C": 0.9, "size=largest": 0.1}
    settings = {"slice_columns": ["line"], "min_slice_dice": bounds, "min_foreground_dice": 0.1}
    gated = measure_by_node(pairs, metadata={"line": lines}, min_groups=3, **settings)
    shown = measure(pairs, metadata={"line": lines}, min_groups=4, **settings)
    rows = {row["slice"]: row for row in gated.metrics["slices"]}
    assert rows["defects=inclusion+patches+scratches"]["images"] == 6
    assert rows["defects=scratches"]["foreground_dice"] == 0.0 and rows["defects=scratches"]["groups"] == 3
    assert rows["defects=scratches"]["found_share"] == 0.0
    assert rows["defects=none"]["foreground_dice"] is None and rows["defects=none"]["false_alarm_share"] == 0.0
    assert rows["line=A"]["foreground_dice"] == 1.0 and rows["line=B"]["images"] == 4
    assert gated.verdicts["defects=scratches"] is False and gated.verdicts["line=A"] is True
    assert shown.verdicts["defects=scratches"] is True and shown.blessed
    assert "shown, not gated: 3 groups, fewer than 4" in shown.words("defects=scratches")
    assert "shown, not gated: 0 groups" in shown.words("line=C")


def test_records_that_lack_a_column_are_a_slice_of_their_own(measure: Measure) -> None:
    some = measure(metadata={"line": ["A", "", "B"] * 4}, slice_columns=["line", "coil"], min_groups=1).metrics
    rows = {row["slice"]: row["images"] for row in some["slices"]}
    assert {name: rows.get(name) for name in ("line=A", "line=B", "line=missing", "coil=missing")} == {
        "line=A": 4, "line=B": 4, "line=missing": 4, "coil=missing": 12
    }  # fmt: skip


def test_the_worst_median_and_best_images_are_named(measure: Measure) -> None:
    pairs = [(striped(0), striped(i)) for i in range(12)]
    measured = measure(pairs, listed_images=2)
    images = measured.details["images"]
    assert [image["id"] for image in images["worst"]] == ["011", "010"]
    assert [image["id"] for image in images["median"]] == ["006", "005"]
    assert [image["id"] for image in images["best"]] == ["000", "001"]
    assert images["best"][0]["dice"] == 1.0 and images["worst"][1]["dice"] == pytest.approx(2 / 12)


def test_tfmas_viewers_and_loaders_work_on_the_output(measure_by_node: Measure, exported: Any, tmp_path: Path) -> None:
    measure_by_node(baseline=exported(), metadata={"line": ["A"] * 12}, slice_columns=["line"])
    result = tfma.load_eval_result(str(tmp_path / "node" / "evaluation"), model_name=tfma.CANDIDATE_KEY)
    view = tfma.view.render_slicing_metrics(result)
    assert '"foreground_dice/lower": {"doubleValue": 1.0}' in json.dumps(view.data)
    series = tfma.make_eval_results([result, result], tfma.MODEL_CENTRIC_MODE)
    assert "foreground_dice" in json.dumps(tfma.view.render_time_series(series).data)


def test_counts_add_up_over_all_pixels(measure: Measure) -> None:
    counts = measure().evaluation.counts
    assert counts.sum() == 12 * 32 * 32
    np.testing.assert_array_equal(counts, np.diag(np.diag(counts)))


def measured_row(index: int, predicted: bytes) -> Any:
    """What TFMA hands to the metric."""
    truth = striped(index)
    values = {
        "counts": np.zeros((4, 4)),
        "model_size_counts": np.zeros((4, 4)),
        "probability_sums": np.zeros(3),
        "calibration": np.zeros((15, 3)),
        "truth_png": np.array([encoded(truth)], object),
        "predicted_png": np.array([predicted], object),
        "image_id": np.array([b"%d" % index], object),
        "group": np.array([b"%d" % index], object),
    }
    return tfma.metrics.StandardMetricInputs({"predictions": values, "features": {}})


def test_images_that_another_thread_measures_are_neither_lost_nor_their_errors(make_config: Any) -> None:
    settings = part_of(make_config(), GateSettings)
    metric = SegmentationScores(settings=settings.model_dump_json())
    [combiner] = [c.combiner for c in metric.computations(model_names=["m"]) if hasattr(c, "combiner")]
    combiner, good = pickle.loads(pickle.dumps(combiner)), encoded(striped())
    parts = [combiner.create_accumulator() for _ in range(2)]
    for index in range(12):
        parts[index % 2] = combiner.add_input(parts[index % 2], measured_row(index, good))
    merged = combiner.merge_accumulators([pickle.loads(pickle.dumps(parts[0])), combiner.compact(parts[1])])
    [totals] = combiner.extract_output(merged).values()
    assert (totals.images, len(totals.groups)) == (12, 12)
    broken = combiner.add_input(combiner.create_accumulator(), measured_row(0, b"no picture"))
    with pytest.raises(UnidentifiedImageError):
        combiner.extract_output(broken)


def test_both_models_are_loaded_by_the_nodes_own_module(
    measure_by_node: Measure, exported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TFX takes TFMA's own loader, and says nothing, where it finds no function of that name."""
    loaded: list[str] = []
    tfmas = ModelSignaturesDoFn.setup

    def setup(self: ModelSignaturesDoFn) -> None:
        tfmas(self)
        loaded.extend(type(model).__name__ for model in (self._loaded_models or {}).values())

    monkeypatch.setattr(ModelSignaturesDoFn, "setup", setup)
    assert measure_by_node(baseline=exported(blind=3)).blessed
    assert set(loaded) == {evaluated_model.EvaluatedModel.__name__} and len(loaded) >= 2


def test_the_loader_travels_to_another_worker(exported: Any, make_config: Any) -> None:
    """Though TFX loads its module again each time that it looks for a function there."""
    module = {"module_path": evaluated_model.__name__}
    load, _ = (udf_utils.try_get_fn(module, name) for name in ("custom_eval_shared_model", "custom_extractors"))
    assert load is not None
    config = make_eval_config(part_of(make_config(), GateSettings), code="")
    loader = load(str(exported()), model_name="", eval_config=config).model_loader
    model = pickler.loads(pickler.dumps(loader.construct_fn))()
    assert list(model.signatures) == [SIGNATURE_EVALUATE]


def python_memory(model: Any, batch: Sequence[bytes]) -> int:
    """The most that Python held at once, in bytes, while TFMA predicted a batch by a model that is loaded."""
    spec = tfma.ModelSpec(signature_name=SIGNATURE_EVALUATE)
    predict = ModelSignaturesDoFn(
        [spec], {"": model}, output_keypath=["predictions"], signature_names={"": [spec.signature_name]}
    )
    predict.setup()
    extracts = {tfma.INPUT_KEY: np.array(batch, object), "features": {}}
    predict.process(extracts)
    tracemalloc.start()
    try:
        [answered] = predict.process(extracts)
        assert len(answered["predictions"][OUTPUT_TRUTH_PNG]) == len(batch)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_batch_is_not_written_into_the_words_of_an_error(exported: Any, make_config: Any, tmp_path: Path) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (600, 600, 3), np.uint8)
    records = write_records(tmp_path / "records", [(noise, np.zeros((600, 600), np.uint8))] * 4)
    batch = [record.numpy() for record in tf.data.TFRecordDataset(str(next(records.glob("*.gz"))), "GZIP")]
    config = make_eval_config(part_of(make_config(), GateSettings), code="")
    ours, tfmas = (
        python_memory(load(str(exported()), model_name="", eval_config=config), batch)
        for load in (evaluated_model.custom_eval_shared_model, tfma.default_eval_shared_model)
    )
    size = sum(map(len, batch))
    assert ours < size / 2
    # What it is for: when this fails, TensorFlow or TFMA is mended, and evaluated_model.py can go.
    assert tfmas > 2 * size
