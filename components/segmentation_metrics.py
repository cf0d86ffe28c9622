"""TFMA metrics over the per-image counts that the `evaluate` signature returns: one sum, then scores of the sum.

TFMA's own confusion-matrix metrics shuffle whole label and prediction arrays; here 16 numbers an image travel. Each
score has a key of its own, since a threshold on a MetricConfig matches only the metric's own key.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from numpy.typing import NDArray

from pipeline import features, scores

# Private keys (leading underscore) feed derived metrics and are not written by TFMA.
_TOTALS_KEY: Final = "_segmentation_totals"
PIXEL_COUNTS: Final = "pixel_counts"
EXAMPLE_COUNT: Final = "examples"
FOREGROUND_DICE: Final = "foreground_dice"
SEED_DICE: Final = "seed_dice"
CROSS_ENTROPY: Final = "cross_entropy"


def class_dice_name(class_name: str) -> str:
    """The metric key of one class's Dice."""
    return f"dice/{class_name}"


class Totals(NamedTuple):
    """Sums over images: count, counts float64 `[C, C]`, probability sums float64 `[3]`."""

    examples: int
    counts: NDArray[np.float64]
    sums: NDArray[np.float64]


class ForegroundDice(tfma.metrics.Metric):
    """Mean Dice over the defect classes, pooled."""

    def __init__(self, name: str = FOREGROUND_DICE, code: str = "") -> None:
        super().__init__(create_computations_fn=_foreground_dice, name=name, code=code)


class ClassDice(tfma.metrics.Metric):
    """Dice of one class, pooled."""

    def __init__(self, class_id: int, name: str, code: str = "") -> None:
        super().__init__(create_computations_fn=_class_dice, name=name, class_id=class_id, code=code)


class SegmentationTotals(tfma.metrics.Metric):
    """What the report derives everything else from: pixel counts, images, the seed's Dice and the cross-entropy."""

    def __init__(self, name: str = PIXEL_COUNTS, code: str = "") -> None:
        super().__init__(create_computations_fn=_totals, name=name, code=code)


def _foreground_dice(name: str, code: str, model_names: list[str]) -> list[Any]:
    del code
    return _derived(model_names, {name: lambda totals: scores.foreground_dice(totals.counts)})


def _class_dice(name: str, code: str, class_id: int, model_names: list[str]) -> list[Any]:
    del code
    return _derived(model_names, {name: lambda totals: scores.dice(totals.counts)[class_id]})


def _totals(name: str, code: str, model_names: list[str]) -> list[Any]:
    """The seed's Dice sums over background too, which makes it the mean probability of the true class: never gated."""
    del code
    results = {
        name: lambda totals: totals.counts,
        EXAMPLE_COUNT: lambda totals: totals.examples,
        SEED_DICE: lambda totals: _per_pixel(totals, 1),
        CROSS_ENTROPY: lambda totals: _per_pixel(totals, 2),
    }
    return _derived(model_names, results)


def _per_pixel(totals: Totals, index: int) -> float:
    return totals.sums[index] / totals.sums[0] if totals.sums[0] > 0 else float("nan")


def _derived(model_names: list[str], results: dict[str, Any]) -> list[Any]:
    """One shared sum for each model (TFMA computes equal computations once) and the scores derived from it."""
    computations: list[Any] = []
    for model_name in model_names:
        totals_key = tfma.metrics.MetricKey(name=_TOTALS_KEY, model_name=model_name)
        keys = {tfma.metrics.MetricKey(name=name, model_name=model_name): result for name, result in results.items()}
        computations.append(
            tfma.metrics.MetricComputation(keys=[totals_key], preprocessors=[], combiner=_SumTotals(totals_key))
        )
        computations.append(
            tfma.metrics.DerivedMetricComputation(
                keys=list(keys),
                result=lambda metrics, keys=keys, totals_key=totals_key: {
                    key: _plain(result(metrics[totals_key])) for key, result in keys.items()
                },
            )
        )
    return computations


def _plain(value: Any) -> Any:
    """Python floats: a numpy scalar under a threshold raises TypeError in TFMA 0.52 with numpy 2."""
    return value if isinstance(value, np.ndarray) and value.ndim else float(value)


class _SumTotals(beam.CombineFn):
    """Adds up the outputs of the `evaluate` signature of one model."""

    def __init__(self, key: Any) -> None:
        self._key = key

    def create_accumulator(self) -> Totals | None:
        return None

    def add_input(self, accumulator: Totals | None, element: Any) -> Totals | None:
        outputs = element.get_predictions(self._key.model_name)
        row = Totals(
            1,
            np.asarray(outputs[features.OUTPUT_COUNTS], np.float64),
            np.asarray(outputs[features.OUTPUT_PROBABILITY_SUMS], np.float64),
        )
        return _add(accumulator, row)

    def merge_accumulators(self, accumulators: Iterable[Totals | None]) -> Totals | None:
        merged: Totals | None = None
        for accumulator in accumulators:
            merged = _add(merged, accumulator)
        return merged

    def extract_output(self, accumulator: Totals | None) -> dict[Any, Totals]:
        if accumulator is None:
            raise ValueError("no image reached the evaluation, expected at least one record in the split")
        return {self._key: accumulator}


def _add(left: Totals | None, right: Totals | None) -> Totals | None:
    if left is None or right is None:
        return left or right
    return Totals(left.examples + right.examples, left.counts + right.counts, left.sums + right.sums)
