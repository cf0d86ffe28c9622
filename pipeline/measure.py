"""The Evaluator outside a pipeline: any exported model, any ingested records, the same node, the same verdict."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2
from tfx.components.evaluator import executor
from tfx.dsl.components.base import base_beam_executor
from tfx.types import Artifact, artifact_utils, standard_artifacts
from tfx.utils import json_utils, proto_utils

from components import evaluated_model, gate, reporter
from flexunet.core import features
from flexunet.core.beam import beam_arguments, prepare_beam
from flexunet.core.config.gate import GateSettings
from flexunet.core.config.section import part_of
from flexunet.core.config.whole import Config
from flexunet.core.errors import NodeFailed, UserError, last_line
from flexunet.core.results.metrics import Details, Metrics
from flexunet.dataset.manifest import newest_versions
from flexunet.serving.exported import check_exported, exported_training
from pipeline.evaluation import make_eval_config


def measure(
    model: Path, data: Path, config: Config, baseline: Path | None = None, out: Path | None = None
) -> tuple[Metrics, Details]:
    """Measures a SavedModel on the `test` split of what `flexunet ingest` wrote to `data`.

    Returns what `metrics.json` and `details.json` hold; writes them to `out`, if that is given.

    Raises:
      UserError: a model is not of this config or of this version, or there are no records.
      NodeFailed: the Evaluator raised.
    """
    models = [directory for directory in (model, baseline) if directory is not None]
    for directory in models:
        check_model(directory, config)
    splits = [version / features.SPLIT_TEST for version in newest_versions(data, config.dataset.span_limit)]
    prepare_beam(config.beam, nodes=("Evaluator",))
    settings = part_of(config, GateSettings)
    with tempfile.TemporaryDirectory() as directory:
        try:
            evaluate(models, splits, config, Path(directory))
            evaluation = gate.read_evaluation(f"{directory}/evaluation")
        except Exception as error:
            raise NodeFailed(f"Evaluator failed: {last_line(error)}") from error
    metrics = reporter.make_metrics(evaluation, settings, model, str(baseline) if baseline else None)
    if out:
        reporter.write_report(out, metrics, evaluation, settings)
    return metrics, gate.details_json(evaluation, settings)


def evaluate(models: Sequence[Path], splits: Sequence[Path], config: Config, directory: Path) -> bool:
    """Runs TFX's own executor on SavedModels, the candidate and perhaps a baseline; returns its blessing.

    Args:
      models: SavedModels' folders.
      splits: folders of `*.tfrecord.gz`.
      config: classes and gate.
      directory: gets a folder `evaluation`.
    """
    inputs = {
        "examples": [_examples(split, directory / f"examples-{i}") for i, split in enumerate(splits)],
        **{
            key: [_linked(standard_artifacts.Model(), model, directory / key, "Format-Serving")]
            for key, model in zip(("model", "baseline_model"), models, strict=False)
        },
    }
    blessing = _at(standard_artifacts.ModelBlessing(), directory / "blessing")
    outputs = {
        "blessing": [blessing],
        "evaluation": [_at(standard_artifacts.ModelEvaluation(), directory / "evaluation")],
    }
    settings = part_of(config, GateSettings)
    properties = {
        "eval_config": proto_utils.proto_to_json(make_eval_config(settings, code="")),
        "example_splits": json_utils.dumps([features.SPLIT_TEST]),
        "module_path": evaluated_model.__name__,
    }
    context = base_beam_executor.BaseBeamExecutor.Context(
        beam_pipeline_args=[*beam_arguments(config.beam.node("Evaluator"))],
        tmp_dir=str(directory / "tmp"),
        unique_id="1",
    )
    executor.Executor(context).Do(inputs, outputs, properties)
    return blessing.get_int_custom_property("blessed") == 1


def check_model(model: Path, config: Config) -> None:
    """Raises UserError for a SavedModel that cannot be measured: of other classes or records, or of an earlier version.

    Args:
      model: its folder.
      config: what it is to be measured with.
    """
    check_exported(model, config)
    if features.OUTPUT_TRUTH_PNG not in _evaluate_outputs(model / features.EXPORTED_GRAPH):
        raise UserError(f"{model}: of an earlier version, expected one whose `evaluate` gives masks: train it again")
    exported_training(model)


def _evaluate_outputs(graph: Path) -> set[str]:
    try:
        saved = saved_model_pb2.SavedModel.FromString(graph.read_bytes())
    except DecodeError:
        raise UserError(
            f"{graph}: not a whole SavedModel, expected one that this project exported: copy it again"
        ) from None
    return {name for meta in saved.meta_graphs for name in meta.signature_def[features.SIGNATURE_EVALUATE].outputs}


def _examples(split: Path, directory: Path) -> Artifact:
    examples = _linked(standard_artifacts.Examples(), split, directory, f"Split-{features.SPLIT_TEST}")
    examples.split_names = artifact_utils.encode_split_names([features.SPLIT_TEST])
    return examples


def _linked(artifact: Artifact, target: Path, directory: Path, name: str) -> Artifact:
    """TFX looks for models and splits below folders of these names."""
    directory.mkdir()
    (directory / name).symlink_to(target.resolve(), target_is_directory=True)
    return _at(artifact, directory)


def _at(artifact: Artifact, directory: Path) -> Artifact:
    artifact.uri = str(directory)
    return artifact
