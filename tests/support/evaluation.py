"""What TFX's Evaluator says of exported models, by its own parts in turn, without Beam and the files in between.

The parts: the `evaluate` signature, the combiner and the derived computations of our metric, TFMA's validation.
tests/components/test_gate.py holds it against the node itself.
"""

# Before TFMA, which lacks half its names unless TFX has stood in for what its libraries dropped.
from tfx import v1  # noqa: F401

# isort: split
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.evaluators import metrics_validator

from components import gate
from components.segmentation_metrics import PIXEL_COUNTS, SegmentationScores
from flexunet.core.config.gate import GateSettings
from flexunet.core.features import METADATA_PREFIX, SIGNATURE_EVALUATE
from pipeline.evaluation import make_eval_config


def evaluate_values(models: Sequence[Path], records: Path, settings: GateSettings) -> gate.Evaluation:
    """Measures the candidate, and perhaps a baseline, on the examples of a folder of `*.tfrecord.gz`."""
    config = tfma.utils.update_eval_config_with_defaults(
        make_eval_config(settings, code=""), has_baseline=len(models) == 2, rubber_stamp=True
    )
    names = [spec.name for spec in config.model_specs]
    files = sorted(map(str, records.glob("*.gz")))
    examples = [record.numpy() for record in tf.data.TFRecordDataset(files, "GZIP")]
    metrics = _metrics(list(_inputs(dict(zip(names, models, strict=True)), examples)), names, settings)
    validated = metrics_validator.validate_metrics(((), {**metrics, **_differences(metrics)}), config)
    candidate, *baseline = ({k.name: v for k, v in metrics.items() if k.model_name == name} for name in names)
    return gate.Evaluation(candidate, baseline[0] if baseline else {}, config, validated.validation_ok)


def _inputs(models: dict[str, Path], examples: list[bytes]) -> Iterator[Any]:
    """A row for each example as TFMA hands it to a metric; with a single model its outputs stand alone."""
    answers = {name: _signature(model)(tf.constant(examples)) for name, model in models.items()}
    for index, example in enumerate(examples):
        features = tf.train.Example.FromString(example).features.feature
        columns = {k: np.array(v.bytes_list.value) for k, v in features.items() if k.startswith(METADATA_PREFIX)}
        outputs = {name: {k: v[index].numpy() for k, v in answer.items()} for name, answer in answers.items()}
        predictions = outputs if len(outputs) > 1 else next(iter(outputs.values()))
        yield tfma.metrics.StandardMetricInputs({"predictions": predictions, "features": columns})


@functools.cache
def _signature(model: Path) -> Any:
    loaded = tf.saved_model.load(str(model))
    signature = loaded.signatures[SIGNATURE_EVALUATE]
    [name] = signature.structured_input_signature[1]
    # The function alone would not keep the variables alive.
    return lambda examples, keep=loaded: signature(**{name: examples})


def _metrics(inputs: list[Any], names: list[str], settings: GateSettings) -> dict[Any, Any]:
    metric = SegmentationScores(settings=settings.model_dump_json(), name=PIXEL_COUNTS)
    found: dict[Any, Any] = {}
    for computation in metric.computations(model_names=names):
        if isinstance(computation, tfma.metrics.MetricComputation):
            sums = computation.combiner.create_accumulator()
            for row in inputs:
                sums = computation.combiner.add_input(sums, row)
            found |= computation.combiner.extract_output(sums)
        else:
            found |= computation.result(found)
    # As TFMA does: what begins with an underscore is for other metrics only.
    return {key: value for key, value in found.items() if not key.name.startswith("_")}


def _differences(metrics: dict[Any, Any]) -> dict[Any, float]:
    of_baseline = {key.name: value for key, value in metrics.items() if key.model_name == tfma.BASELINE_KEY}
    return {
        key.make_diff_key(): value - of_baseline[key.name]
        for key, value in metrics.items()
        if key.model_name == tfma.CANDIDATE_KEY and isinstance(of_baseline.get(key.name), float)
    }
