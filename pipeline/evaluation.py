"""The gate as TFMA's EvalConfig: which scores, and which bounds they must keep."""

# Before TFMA, which lacks half its names unless TFX has stood in for what its libraries dropped.
from tfx import v1  # noqa: F401

# isort: split
import json
from collections.abc import Iterator

import tensorflow_model_analysis as tfma

from components import derived_scores, segmentation_metrics
from flexunet.core import features
from flexunet.core.config.gate import GateSettings


def make_eval_config(settings: GateSettings, code: str) -> tfma.EvalConfig:
    """Scores on the whole split, thresholds from `[gate]`.

    Args:
      settings: classes and gate.
      code: fingerprint of the metrics' code; EvaluatorSpec has no custom_config, so it keys the cache from here.
    """
    config = {"name": segmentation_metrics.PIXEL_COUNTS, "settings": settings.model_dump_json(), "code": code}
    metric = tfma.MetricConfig(
        class_name=segmentation_metrics.SegmentationScores.__name__,
        module=segmentation_metrics.__name__,
        config=json.dumps(config, sort_keys=True),
    )
    return tfma.EvalConfig(
        model_specs=[tfma.ModelSpec(signature_name=features.SIGNATURE_EVALUATE)],
        slicing_specs=[tfma.SlicingSpec()],
        metrics_specs=[tfma.MetricsSpec(metrics=[metric], thresholds=dict(_thresholds(settings)))],
    )


def _thresholds(settings: GateSettings) -> Iterator[tuple[str, tfma.MetricThreshold]]:
    gate = settings.gate
    yield derived_scores.GATE + derived_scores.FOREGROUND_DICE, _at_least(gate.min_foreground_dice)
    # `absolute` is the least change accepted, so that an allowed regression is negative. Without a baseline TFMA drops
    # it, and the value thresholds alone decide.
    change = tfma.GenericChangeThreshold(
        absolute={"value": -gate.max_regression}, direction=tfma.MetricDirection.HIGHER_IS_BETTER
    )
    yield derived_scores.FOREGROUND_DICE, tfma.MetricThreshold(change_threshold=change)
    if any(c.name not in gate.allow_unmeasured for c in settings.classes[1:]):
        yield derived_scores.MEASURED, _at_least(1)
    for name, bound in gate.min_class_dice.items():
        yield derived_scores.GATE + derived_scores.class_score("dice", name), _at_least(bound)
    if gate.min_defects_found is not None:
        yield derived_scores.GATE + derived_scores.DEFECTS_FOUND, _at_least(gate.min_defects_found)
    if gate.max_false_alarms is not None:
        yield derived_scores.GATE + derived_scores.FALSE_ALARMS, _at_most(gate.max_false_alarms)
    if gate.max_false_regions is not None:
        yield derived_scores.GATE + derived_scores.FALSE_REGION_DENSITY, _at_most(gate.max_false_regions)
    if gate.max_a90_95 is not None:
        yield derived_scores.GATE + derived_scores.A90_95, _at_most(gate.max_a90_95)
    for name, bound in gate.min_slice_dice.items():
        yield derived_scores.SLICE + name, _at_least(bound)


def _at_least(bound: float) -> tfma.MetricThreshold:
    return tfma.MetricThreshold(value_threshold=tfma.GenericValueThreshold(lower_bound={"value": bound}))


def _at_most(bound: float) -> tfma.MetricThreshold:
    return tfma.MetricThreshold(value_threshold=tfma.GenericValueThreshold(upper_bound={"value": bound}))
