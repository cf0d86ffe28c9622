"""The TFMA metric: one CombineFn for each model over what the `evaluate` signature returns for an image, then scores.

TFMA's own confusion-matrix metrics shuffle whole label and prediction arrays; here a few KB an image travel. Its slices
and its bootstrap are not used: a slice that is missing fails its validation, quartiles must be known beforehand, and
its bootstrap (20 resamples, fixed) draws images, not groups. Every score is a metric with a key of its own, since that
is what a threshold is laid on.
"""

import collections
import functools
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma

from components.derived_scores import FOREGROUND_DICE_DIFFERENCE, all_scores, details, difference_interval, lower, upper
from components.measurement import Outputs, Totals, measure_image
from flexunet.core.config.gate import GateSettings
from flexunet.core.features import METADATA_PREFIX

Key = tfma.metrics.MetricKey
Computation = tfma.metrics.MetricComputation | tfma.metrics.DerivedMetricComputation

PIXEL_COUNTS: Final = "pixel_counts"
# JSON of derived_scores.details().
DETAILS: Final = "details"
# Private keys (leading underscore) feed derived metrics and are not written by TFMA.
_TOTALS: Final = "_segmentation_totals"
# Images, each with two masks of some KB as PNG: as many as TFMA predicts at once.
_MOST_WAITING: Final = 1000


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


class _Measured:
    """What was added: totals, and images that another thread still measures while the next batch is predicted."""

    def __init__(self, settings: GateSettings, totals: Totals | None = None) -> None:
        self._settings, self._totals = settings, totals or Totals()
        self._waiting: collections.deque[Future[None]] = collections.deque()

    def __reduce__(self) -> tuple[type["_Measured"], tuple[GateSettings, Totals]]:
        return _Measured, (self._settings, self.settled())

    def add(self, worker: ThreadPoolExecutor, outputs: Outputs, metadata: Mapping[str, str]) -> None:
        """Has an image measured; raises what an earlier one raised."""
        if len(self._waiting) >= _MOST_WAITING:
            self._waiting.popleft().result()
        self._waiting.append(worker.submit(self._measure, outputs, metadata))

    def settled(self) -> Totals:
        """Totals of all that was added."""
        while self._waiting:
            self._waiting.popleft().result()
        return self._totals

    def _measure(self, outputs: Outputs, metadata: Mapping[str, str]) -> None:
        self._totals.add(measure_image(outputs, metadata, self._settings), self._settings)


class _SumImages(beam.CombineFn):
    """Adds up the outputs of the `evaluate` signature of one model.

    Regions are labelled in Python, by one core, where the graph uses all of them: so a thread does it beside the graph.
    """

    def __init__(self, key: Key, settings: GateSettings) -> None:
        self._key, self._settings = key, settings

    def __reduce__(self) -> tuple[type["_SumImages"], tuple[Key, GateSettings]]:
        return _SumImages, (self._key, self._settings)

    @functools.cached_property
    def _worker(self) -> ThreadPoolExecutor:
        # One thread, so that images are added in their order and nothing is locked.
        return ThreadPoolExecutor(1, "measure")

    def create_accumulator(self) -> _Measured:
        return _Measured(self._settings)

    def add_input(self, accumulator: _Measured, element: tfma.metrics.StandardMetricInputs) -> _Measured:
        accumulator.add(self._worker, element.get_predictions(self._key.model_name), self._metadata(element))
        return accumulator

    def compact(self, accumulator: _Measured) -> _Measured:
        accumulator.settled()
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[_Measured]) -> _Measured:
        merged = Totals()
        for accumulator in accumulators:
            merged.merge(accumulator.settled(), self._settings)
        return _Measured(self._settings, merged)

    def extract_output(self, accumulator: _Measured) -> dict[Key, Totals]:
        return {self._key: accumulator.settled()}

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
