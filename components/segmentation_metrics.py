"""The TFMA metric: one CombineFn for each model over what the `evaluate` signature returns for an image, then scores.

TFMA's own confusion-matrix metrics shuffle whole label and prediction arrays; here a few KB an image travel. Its slices
and its bootstrap are not used: a slice that is missing fails its validation, quartiles must be known beforehand, and
its bootstrap (20 resamples, fixed) draws images, not groups. Every score is a metric with a key of its own, since that
is what a threshold is laid on.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Final

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma

from components.derived_scores import FOREGROUND_DICE_DIFFERENCE, all_scores, details, difference_interval, lower, upper
from components.measurement import Totals, measure_image
from flexunet.core.config.gate import GateSettings
from flexunet.core.features import METADATA_PREFIX

Key = tfma.metrics.MetricKey
Computation = tfma.metrics.MetricComputation | tfma.metrics.DerivedMetricComputation

PIXEL_COUNTS: Final = "pixel_counts"
# JSON of summary.details().
DETAILS: Final = "details"
# Private keys (leading underscore) feed derived metrics and are not written by TFMA.
_TOTALS: Final = "_segmentation_totals"


class SegmentationScores(tfma.metrics.Metric):
    """All scores of `components/derived_scores.py`; `settings` is GateSettings as JSON, `code` keys the cache."""

    def __init__(self, settings: str, name: str = PIXEL_COUNTS, code: str = "") -> None:
        super().__init__(create_computations_fn=_computations, name=name, settings=settings, code=code)


def _computations(name: str, settings: str, code: str, model_names: list[str]) -> list[Computation]:
    del code
    parsed = GateSettings.model_validate_json(settings)
    features = [METADATA_PREFIX + column for column in parsed.gate.slice_columns]
    # An empty list of features would mean all of them, the images too.
    preprocessors = [tfma.metrics.FeaturePreprocessor(feature_keys=features)] if features else []
    computations: list[Computation] = []
    for model_name in model_names:
        key = _key(_TOTALS, model_name)
        combiner = _SumImages(key, parsed)
        computations.append(tfma.metrics.MetricComputation(keys=[key], preprocessors=preprocessors, combiner=combiner))
        computations.append(_derived(name, key, parsed))
    if tfma.BASELINE_KEY in model_names:
        computations.append(_difference())
    return computations


def _derived(name: str, totals_key: Key, settings: GateSettings) -> Computation:
    model_name = totals_key.model_name

    def result(metrics: Mapping[Key, Totals]) -> dict[Key, object]:
        totals: Totals = metrics[totals_key]
        values = {_key(metric, model_name): value for metric, value in all_scores(totals, settings).items()}
        text = json.dumps(details(totals, settings), allow_nan=False)
        return {**values, _key(name, model_name): totals.known_sums.counts, _key(DETAILS, model_name): text.encode()}

    return tfma.metrics.DerivedMetricComputation(keys=[_key(name, model_name)], result=result)


def _difference() -> Computation:
    ends = [_key(end(FOREGROUND_DICE_DIFFERENCE), tfma.CANDIDATE_KEY) for end in (lower, upper)]

    def result(metrics: Mapping[Key, Totals]) -> dict[Key, float]:
        candidate, baseline = (metrics[_key(_TOTALS, model)] for model in (tfma.CANDIDATE_KEY, tfma.BASELINE_KEY))
        return dict(zip(ends, difference_interval(candidate, baseline), strict=True))

    return tfma.metrics.DerivedMetricComputation(keys=ends, result=result)


def _key(name: str, model_name: str) -> Key:
    # None, as in the keys of MetricsSpec.thresholds; the default, False, is another key and would match none.
    return tfma.metrics.MetricKey(name=name, model_name=model_name, example_weighted=None)


class _SumImages(beam.CombineFn):
    """Adds up the outputs of the `evaluate` signature of one model."""

    def __init__(self, key: Key, settings: GateSettings) -> None:
        self._key, self._settings = key, settings

    def create_accumulator(self) -> Totals:
        return Totals()

    def add_input(self, accumulator: Totals, element: tfma.metrics.StandardMetricInputs) -> Totals:
        outputs = element.get_predictions(self._key.model_name)
        accumulator.add(measure_image(outputs, self._metadata(element), self._settings), self._settings)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[Totals]) -> Totals:
        merged = Totals()
        for accumulator in accumulators:
            merged.merge(accumulator, self._settings)
        return merged

    def extract_output(self, accumulator: Totals) -> dict[Key, Totals]:
        return {self._key: accumulator}

    def _metadata(self, element: tfma.metrics.StandardMetricInputs) -> dict[str, str]:
        columns = self._settings.gate.slice_columns
        if not columns:
            return {}
        features = element.features or {}
        values = {column: features.get(METADATA_PREFIX + column) for column in columns}
        return {column: _text(value) for column, value in values.items()}


def _text(value: object) -> str:
    """TFMA gives an array of one string; None or an empty one where a record lacks the column."""
    strings = [] if value is None else [v for v in np.ravel(np.asarray(value, object)) if v is not None]
    if len(strings) != 1:
        return "missing"
    return strings[0].decode("utf-8", "replace") if isinstance(strings[0], bytes) else str(strings[0])
