"""The report node: runs after every evaluation, also of a refused model; writes scores and pictures of the training."""

import shutil
from pathlib import Path
from typing import Any, Final

from tfx import v1 as tfx
from tfx.components.pusher.executor import _PUSHED_VERSION_KEY
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import Artifact, artifact, artifact_utils, component_spec, standard_artifacts
from tfx.utils import path_utils

from components import gate, report_parts
from components.drift import Drift
from components.mask_validator import MaskValidation
from flexunet.core.config.gate import GateSettings
from flexunet.core.errors import UserError
from flexunet.core.features import (
    ACCEPTED_REFUSED,
    ASSETS_EXTRA,
    EXPORTED_TRAINING,
    SPLIT_TEST,
    TRAINING_AUGMENTED,
    TRAINING_HISTORY,
    TRAINING_PREVIEWS,
)
from flexunet.core.files import read_json, write_json
from flexunet.core.root import HEADLINE_PROPERTIES, SERVING_FILE, ReportFolder
from flexunet.reporting.report import write_page

FORMAT: Final = 1


class Report(artifact.Artifact):
    """A folder with `index.html` and what it is made of, which flexunet/core/root.py names."""

    TYPE_NAME = "SegmentationReport"


class Executor(base_executor.BaseExecutor):
    """Derives all scores and the gate's words from the evaluation, and draws the page."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        self._log_startup(input_dict, output_dict, exec_properties)
        settings = GateSettings.model_validate_json(exec_properties["settings"])
        inputs = {key: artifacts[0] for key, artifacts in input_dict.items() if artifacts}
        evaluation = gate.read_evaluation(inputs["evaluation"].uri)
        exported = _serving_path(inputs["model"])
        metrics = _metrics(inputs, evaluation, settings, exported)
        target = artifact_utils.get_single_instance(output_dict["report"])
        folder = ReportFolder(Path(target.uri))
        write_report(folder.path, metrics, evaluation, settings)
        copy_training(Path(inputs["model_run"].uri), folder.training)
        shutil.copyfile(Path(inputs["infra_blessing"].uri) / SERVING_FILE, folder.serving)
        self._write_parts(folder, inputs, evaluation, settings, exported)
        write_page(folder)
        _leave_headline(target, metrics)

    def _write_parts(
        self,
        folder: ReportFolder,
        inputs: dict[str, Artifact],
        evaluation: gate.Evaluation,
        settings: GateSettings,
        exported: Path,
    ) -> None:
        examples = inputs["examples"]
        run = self._context.pipeline_run_id if self._context else None
        lineage = report_parts.lineage_facts(inputs["model"], exported, examples, settings, run)
        write_json(folder.lineage, lineage)
        data = report_parts.data_facts(examples, inputs["statistics"], inputs["validation"], inputs["drift"])
        write_json(folder.data, data)
        report_parts.write_model(folder, exported)
        images = evaluation.details["images"]
        report_parts.draw_gallery(folder, images, exported, examples, settings)


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
    facts = read_json(path) or {}
    if not isinstance(facts, dict):
        raise UserError(f"{path}: not what this project wrote, expected an object: copy the model again")
    return facts


def write_report(directory: Path, metrics: dict[str, Any], evaluation: gate.Evaluation, settings: GateSettings) -> None:
    """Writes `metrics.json` and `details.json`."""
    directory.mkdir(parents=True, exist_ok=True)
    folder = ReportFolder(directory)
    write_json(folder.metrics, metrics)
    write_json(folder.details, gate.details_json(evaluation, settings))


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
        "infra_blessing": component_spec.ChannelParameter(type=standard_artifacts.InfraBlessing),
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "statistics": component_spec.ChannelParameter(type=standard_artifacts.ExampleStatistics),
        "validation": component_spec.ChannelParameter(type=MaskValidation),
        "drift": component_spec.ChannelParameter(type=Drift),
        "baseline_model": component_spec.ChannelParameter(type=standard_artifacts.Model, optional=True),
    }
    OUTPUTS = {"report": component_spec.ChannelParameter(type=Report)}


class Reporter(base_component.BaseComponent):
    """`settings` is GateSettings as JSON, `code` the fingerprint that keys the cache."""

    SPEC_CLASS = ReportSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, channels: dict[str, tfx.types.BaseChannel], settings: str, code: str) -> None:
        report = tfx.dsl.Channel(type=Report)
        super().__init__(spec=ReportSpec(**channels, settings=settings, code=code, report=report))


def _metrics(
    inputs: dict[str, Artifact], evaluation: gate.Evaluation, settings: GateSettings, exported: Path
) -> dict[str, Any]:
    baseline, pushed = inputs.get("baseline_model"), inputs["pushed_model"]
    metrics = make_metrics(evaluation, settings, exported, baseline.uri if baseline else None)
    metrics["pushed_version"] = _pushed_version(pushed)
    metrics["gate"] += _accepted(pushed)
    return metrics


def _leave_headline(target: Artifact, metrics: dict[str, Any]) -> None:
    """In ML Metadata, where it outlives the folder: `flexunet runs` lists it after `flexunet clean`."""
    lower, upper = metrics["foreground_dice_interval"] or (None, None)
    values = (metrics["foreground_dice"], lower, upper, metrics["examples"])
    for name, value in zip(HEADLINE_PROPERTIES, values, strict=True):
        if value is not None:
            target.set_float_custom_property(name, float(value))


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
