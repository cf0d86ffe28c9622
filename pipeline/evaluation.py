"""The gate as TFMA's EvalConfig: which scores, and which bounds they must keep."""

import json
from collections.abc import Mapping
from typing import Any

import tensorflow_model_analysis as tfma

from components import segmentation_metrics
from pipeline import features
from pipeline.config import GateSettings


def make_eval_config(settings: GateSettings, code: str) -> tfma.EvalConfig:
    """Scores on the whole split, thresholds from `[gate]`.

    Args:
      settings: classes and gate.
      code: fingerprint of the metrics' code; EvaluatorSpec has no custom_config, so it keys the cache from here.
    """
    gate = settings.gate
    metrics = [
        _metric("SegmentationTotals", {"name": segmentation_metrics.PIXEL_COUNTS}, code),
        _metric(
            "ForegroundDice",
            {"name": segmentation_metrics.FOREGROUND_DICE},
            code,
            tfma.MetricThreshold(
                value_threshold=_at_least(gate.min_foreground_dice),
                # `absolute` is the least change accepted, so that an allowed regression is negative. Without a
                # baseline TFMA drops it, and the value threshold alone decides.
                change_threshold=tfma.GenericChangeThreshold(
                    absolute={"value": -gate.max_regression}, direction=tfma.MetricDirection.HIGHER_IS_BETTER
                ),
            ),
        ),
    ]
    for class_id, segmentation_class in enumerate(settings.classes[1:], start=1):
        bound = gate.min_class_dice.get(segmentation_class.name)
        name = segmentation_metrics.class_dice_name(segmentation_class.name)
        threshold = tfma.MetricThreshold(value_threshold=_at_least(bound)) if bound is not None else None
        metrics.append(_metric("ClassDice", {"name": name, "class_id": class_id}, code, threshold))
    return tfma.EvalConfig(
        model_specs=[tfma.ModelSpec(signature_name=features.SIGNATURE_EVALUATE)],
        slicing_specs=[tfma.SlicingSpec()],
        metrics_specs=[tfma.MetricsSpec(metrics=metrics)],
    )


def _at_least(bound: float) -> tfma.GenericValueThreshold:
    return tfma.GenericValueThreshold(lower_bound={"value": bound})


def _metric(
    class_name: str, settings: Mapping[str, Any], code: str, threshold: tfma.MetricThreshold | None = None
) -> tfma.MetricConfig:
    return tfma.MetricConfig(
        class_name=class_name,
        module=segmentation_metrics.__name__,
        config=json.dumps({**settings, "code": code}, sort_keys=True),
        threshold=threshold,
    )
