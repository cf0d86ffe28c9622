"""The report node: runs after every evaluation, also of a refused model; writes scores and pictures of the training."""

import json
import shutil
from pathlib import Path
from typing import Any, Final

from tfx import v1 as tfx
from tfx.components.pusher.executor import _PUSHED_VERSION_KEY
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import Artifact, artifact, artifact_utils, component_spec, standard_artifacts
from tfx.utils import path_utils

from components import gate
from components.pushes import ACCEPTED_REFUSED
from pipeline.config import GateSettings
from pipeline.errors import UserError, last_line
from pipeline.features import (
    ASSETS_EXTRA,
    EXPORTED_TRAINING,
    SPLIT_TEST,
    TRAINING_AUGMENTED,
    TRAINING_HISTORY,
    TRAINING_PREVIEWS,
)

METRICS_FILE: Final = "metrics.json"
# Intervals, reliability, the worst images: what the contract of metrics.json has no place for.
DETAILS_FILE: Final = "details.json"
TRAINING_FOLDER: Final = "training"
FORMAT: Final = 1


class Report(artifact.Artifact):
    """A folder with `metrics.json`, `details.json` and `training/`."""

    TYPE_NAME = "SegmentationReport"


class Executor(base_executor.BaseExecutor):
    """Derives all scores and the gate's words from the evaluation."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        self._log_startup(input_dict, output_dict, exec_properties)
        settings = GateSettings.model_validate_json(exec_properties["settings"])
        evaluation = gate.Evaluation(artifact_utils.get_single_uri(input_dict["evaluation"]))
        model = artifact_utils.get_single_instance(input_dict["model"])
        pushed = artifact_utils.get_single_instance(input_dict["pushed_model"])
        baselines = input_dict.get("baseline_model") or []
        metrics = make_metrics(evaluation, settings, _serving_path(model), baselines[0].uri if baselines else None)
        metrics["pushed_version"] = _pushed_version(pushed)
        metrics["gate"] += _accepted(pushed)
        directory = Path(artifact_utils.get_single_uri(output_dict["report"]))
        write_report(directory, metrics, evaluation, settings)
        copy_training(Path(artifact_utils.get_single_uri(input_dict["model_run"])), directory / TRAINING_FOLDER)


def make_metrics(
    evaluation: gate.Evaluation, settings: GateSettings, model: Path, baseline: str | None
) -> dict[str, Any]:
    """`metrics.json` of a model, a SavedModel's folder, that was measured and not pushed."""
    facts = training_facts(model)
    return {
        "format": FORMAT,
        "run_id": None,
        "pushed_version": None,
        "split": SPLIT_TEST,
        **gate.metrics_json(evaluation, settings),
        "baseline": gate.baseline_json(evaluation, baseline) if baseline else None,
        "parameters": facts.get("parameters"),
        "train_seconds": facts.get("train_seconds"),
    }


def training_facts(model: Path) -> dict[str, Any]:
    """What the trainer wrote beside a model; nothing for one trained elsewhere: that is null in `metrics.json`.

    Raises:
      UserError: it is damaged.
    """
    path = model / ASSETS_EXTRA / EXPORTED_TRAINING
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: not what this project wrote ({last_line(error)}): copy the model again") from None


def write_report(directory: Path, metrics: dict[str, Any], evaluation: gate.Evaluation, settings: GateSettings) -> None:
    """Writes `metrics.json` and `details.json`; JSON has no NaN, and one would raise."""
    directory.mkdir(parents=True, exist_ok=True)
    contents = {METRICS_FILE: metrics, DETAILS_FILE: gate.details_json(evaluation, settings)}
    for name, content in contents.items():
        (directory / name).write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def copy_training(model_run: Path, directory: Path) -> None:
    """The history, how the masks changed, and what augmentation made of images; TensorBoard's events stay behind."""
    directory.mkdir(parents=True, exist_ok=True)
    pictures = sorted(model_run.glob(f"{TRAINING_PREVIEWS}/*.png"))
    for source in (model_run / TRAINING_HISTORY, model_run / TRAINING_AUGMENTED, *pictures):
        if source.is_file():
            target = directory / source.relative_to(model_run)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)


class ReportSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of the report node."""

    PARAMETERS = {
        "settings": component_spec.ExecutionParameter(type=str),
        "code": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "evaluation": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "model_run": component_spec.ChannelParameter(type=standard_artifacts.ModelRun),
        "pushed_model": component_spec.ChannelParameter(type=standard_artifacts.PushedModel),
        "baseline_model": component_spec.ChannelParameter(type=standard_artifacts.Model, optional=True),
    }
    OUTPUTS = {"report": component_spec.ChannelParameter(type=Report)}


class Reporter(base_component.BaseComponent):
    """`settings` is GateSettings as JSON, `code` the fingerprint that keys the cache."""

    SPEC_CLASS = ReportSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        evaluation: tfx.types.BaseChannel,
        model: tfx.types.BaseChannel,
        model_run: tfx.types.BaseChannel,
        pushed_model: tfx.types.BaseChannel,
        baseline_model: tfx.types.BaseChannel,
        settings: str,
        code: str,
    ) -> None:
        spec = ReportSpec(
            evaluation=evaluation,
            model=model,
            model_run=model_run,
            pushed_model=pushed_model,
            baseline_model=baseline_model,
            settings=settings,
            code=code,
            report=tfx.dsl.Channel(type=Report),
        )
        super().__init__(spec=spec)


def _serving_path(model: Artifact) -> Path:
    return Path(path_utils.serving_model_path(model.uri))


def _pushed_version(pushed_model: Artifact) -> int | None:
    version = pushed_model.get_string_custom_property(_PUSHED_VERSION_KEY)
    return int(version) if version else None


def _accepted(pushed_model: Artifact) -> list[dict[str, Any]]:
    """A line among the checks, failed as they are: whoever reads the verdict must see who overruled it."""
    reason = pushed_model.get_string_custom_property(ACCEPTED_REFUSED)
    if not reason:
        return []
    words = f"refused by the gate and pushed all the same, for this reason: {reason}"
    return [{"check": "accepted", "slice": gate.OVERALL, "value": None, "bound": None, "passed": False, "words": words}]
