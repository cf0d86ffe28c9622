"""The report node: runs after every evaluation, also of a refused model; writes scores and pictures of the training."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from tfx.components.pusher.executor import _PUSHED_VERSION_KEY
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import Artifact, BaseChannel, Channel, artifact, artifact_utils, component_spec, standard_artifacts
from tfx.utils import path_utils

from components import gate, report_parts
from components.drift import DataDrift
from components.mask_validation_artifact import MaskValidation
from flexunet.core.config.gate import GateSettings
from flexunet.core.config.report import ReportSettings
from flexunet.core.features import (
    ACCEPTED_REFUSED,
    SPLIT_TEST,
    TRAINING_AUGMENTED,
    TRAINING_HISTORY,
    TRAINING_PREVIEWS,
    TRIALS,
)
from flexunet.core.files import made_folder, write_documents, write_json
from flexunet.core.results.metrics import FORMAT, OVERALL, Check, Metrics
from flexunet.core.results.serving import Serving, read_serving
from flexunet.core.results.verdict import ACCEPTED, NEXT_STEPS, decide, problems_of
from flexunet.core.root import HEADLINE_PROPERTIES, PROBLEMS_PROPERTY, ReportFolder
from flexunet.reporting.report import write_page
from flexunet.serving.exported import exported_operating_point, exported_training

Artifacts = dict[str, list[Artifact]]


class Report(artifact.Artifact):
    """A folder with `index.html` and what it is made of, which flexunet/core/root.py names."""

    TYPE_NAME = "SegmentationReport"


class Parameters(TypedDict):
    """GateSettings as JSON, the reason of who overruled the gate, and the fingerprint that keys the cache."""

    settings: str
    accepted_refused: str
    code: str


class Executor(base_executor.BaseExecutor):
    """Derives all scores and the gate's words from the evaluation, and draws the page."""

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: Parameters) -> None:
        self._log_startup(input_dict, output_dict, exec_properties)
        settings = ReportSettings.model_validate_json(exec_properties["settings"])
        inputs = {key: artifacts[0] for key, artifacts in input_dict.items() if artifacts}
        evaluation = gate.read_evaluation(inputs["evaluation"].uri)
        exported = _serving_path(inputs["model"])
        serving = _read_serving(inputs)
        metrics = _metrics(inputs, evaluation, settings, exported)
        judge(metrics, serving, bool(exec_properties[ACCEPTED_REFUSED]))
        target = artifact_utils.get_single_instance(output_dict["report"])
        folder = ReportFolder(Path(target.uri))
        write_report(folder.path, metrics, evaluation, settings)
        copy_training(Path(inputs["model_run"].uri), folder.training)
        write_json(folder.serving, serving)
        self._write_parts(folder, inputs, evaluation, settings, exported)
        write_page(folder)
        _leave_headline(target, metrics)

    def _write_parts(
        self,
        folder: ReportFolder,
        inputs: Mapping[str, Artifact],
        evaluation: gate.Evaluation,
        settings: ReportSettings,
        exported: Path,
    ) -> None:
        examples = inputs["examples"]
        run = self._context.pipeline_run_id if self._context else None
        lineage = report_parts.lineage_facts(inputs["model"], exported, examples, settings, run)
        write_json(folder.lineage, lineage)
        data = report_parts.data_facts(examples, inputs["statistics"], inputs["validation"], inputs["drift"])
        write_json(folder.data, data)
        if "tuner_results" in inputs:
            shutil.copyfile(Path(inputs["tuner_results"].uri) / TRIALS, folder.tuning)
        report_parts.write_model(folder, exported)
        images = evaluation.details["images"]
        report_parts.draw_gallery(folder, images, exported, examples, settings)


def make_metrics(evaluation: gate.Evaluation, settings: GateSettings, model: Path, baseline: str | None) -> Metrics:
    """`metrics.json` of a model, a SavedModel's folder, that was measured and not pushed; the verdict is the gate's."""
    facts = exported_training(model)
    metrics: Metrics = {
        "format": FORMAT,
        "run_id": None,
        "verdict": ACCEPTED,
        "problems": [],
        "next_step": None,
        "pushed_version": None,
        "split": SPLIT_TEST,
        **gate.metrics_json(evaluation, settings),
        "operating_point": exported_operating_point(model),
        "baseline": gate.baseline_json(evaluation, baseline) if baseline else None,
        "parameters": facts.get("parameters"),
        "train_seconds": facts.get("train_seconds"),
    }
    judge(metrics)
    return metrics


def judge(metrics: Metrics, serving: Serving | None = None, overruled: bool = False) -> None:
    """Writes the verdict into `metrics`, whose gate has spoken.

    Args:
      metrics: gets `verdict`, `problems` and `next_step`.
      serving: what the serving validators found; None where there are none.
      overruled: a person gave a reason to push the model although the gate refuses it.
    """
    verdict = decide(metrics["blessed"], serving is None or serving["blessed"], overruled)
    failed = [check["words"] for check in metrics["gate"] if not check["passed"]]
    metrics["verdict"], metrics["next_step"] = verdict, NEXT_STEPS[verdict]
    metrics["problems"] = problems_of(verdict, failed, serving["problems"] if serving else [])


def write_report(directory: Path, metrics: Metrics, evaluation: gate.Evaluation, settings: GateSettings) -> None:
    """Writes `metrics.json` and `details.json`: both, or neither and no new folder."""
    folder = ReportFolder(directory)
    with made_folder(directory):
        write_documents({folder.metrics: metrics, folder.details: gate.details_json(evaluation, settings)})


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
        ACCEPTED_REFUSED: component_spec.ExecutionParameter(type=str),
        "code": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "evaluation": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "model_run": component_spec.ChannelParameter(type=standard_artifacts.ModelRun),
        "pushed_model": component_spec.ChannelParameter(type=standard_artifacts.PushedModel),
        "infra_blessing": component_spec.ChannelParameter(type=standard_artifacts.InfraBlessing),
        "server_blessing": component_spec.ChannelParameter(type=standard_artifacts.InfraBlessing, optional=True),
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "statistics": component_spec.ChannelParameter(type=standard_artifacts.ExampleStatistics),
        "validation": component_spec.ChannelParameter(type=MaskValidation),
        "drift": component_spec.ChannelParameter(type=DataDrift),
        "baseline_model": component_spec.ChannelParameter(type=standard_artifacts.Model, optional=True),
        "tuner_results": component_spec.ChannelParameter(type=standard_artifacts.TunerResults, optional=True),
    }
    OUTPUTS = {"report": component_spec.ChannelParameter(type=Report)}


class Reporter(base_component.BaseComponent):
    """Scores, verdict and pages of one model, accepted or refused.

    Args:
      evaluation: of this project's Evaluator.
      model: the export that it measured.
      model_run: what Trainer left beside it: history and pictures.
      pushed_model: what the pusher did with it.
      infra_blessing: of ServingValidator.
      examples: the records that the model was measured on.
      statistics: of those records.
      validation: of MaskValidator.
      drift: of DriftReporter.
      settings: ReportSettings as JSON.
      code: fingerprint that keys the cache.
      server_blessing: of TFX's InfraValidator, where there is one.
      baseline_model: the model that this one was compared with.
      tuner_results: of Tuner, where there was a search.
      accepted_refused: a person's reason to push the model although the gate refuses it, or "".
    """

    SPEC_CLASS = ReportSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        evaluation: BaseChannel,
        model: BaseChannel,
        model_run: BaseChannel,
        pushed_model: BaseChannel,
        infra_blessing: BaseChannel,
        examples: BaseChannel,
        statistics: BaseChannel,
        validation: BaseChannel,
        drift: BaseChannel,
        settings: str,
        code: str,
        server_blessing: BaseChannel | None = None,
        baseline_model: BaseChannel | None = None,
        tuner_results: BaseChannel | None = None,
        accepted_refused: str = "",
    ) -> None:
        spec = ReportSpec(
            evaluation=evaluation,
            model=model,
            model_run=model_run,
            pushed_model=pushed_model,
            infra_blessing=infra_blessing,
            server_blessing=server_blessing,
            examples=examples,
            statistics=statistics,
            validation=validation,
            drift=drift,
            baseline_model=baseline_model,
            tuner_results=tuner_results,
            settings=settings,
            accepted_refused=accepted_refused,
            code=code,
            report=Channel(type=Report),
        )
        super().__init__(spec=spec)


def _read_serving(inputs: Mapping[str, Artifact]) -> Serving:
    server = inputs.get("server_blessing")
    return read_serving(Path(inputs["infra_blessing"].uri), Path(server.uri) if server else None)


def _metrics(
    inputs: Mapping[str, Artifact], evaluation: gate.Evaluation, settings: GateSettings, exported: Path
) -> Metrics:
    baseline, pushed = inputs.get("baseline_model"), inputs["pushed_model"]
    metrics = make_metrics(evaluation, settings, exported, baseline.uri if baseline else None)
    metrics["pushed_version"] = _pushed_version(pushed)
    metrics["gate"] += _accepted(pushed)
    return metrics


def _leave_headline(target: Artifact, metrics: Metrics) -> None:
    """Notes the headline in ML Metadata, where it outlives the folder: `runs` lists it after `clean`."""
    lower, upper = metrics["foreground_dice_interval"] or (None, None)
    values = (metrics["foreground_dice"], lower, upper, metrics["examples"])
    for name, value in zip(HEADLINE_PROPERTIES, values, strict=True):
        if value is not None:
            target.set_float_custom_property(name, float(value))
    target.set_string_custom_property(PROBLEMS_PROPERTY, json.dumps(metrics["problems"]))


def _serving_path(model: Artifact) -> Path:
    return Path(path_utils.serving_model_path(model.uri))


def _pushed_version(pushed_model: Artifact) -> int | None:
    version = pushed_model.get_string_custom_property(_PUSHED_VERSION_KEY)
    return int(version) if version else None


def _accepted(pushed_model: Artifact) -> list[Check]:
    """A line among the checks, failed as they are: whoever reads the verdict must see who overruled it."""
    reason = pushed_model.get_string_custom_property(ACCEPTED_REFUSED)
    if not reason:
        return []
    words = f"refused by the gate and pushed all the same, for this reason: {reason}"
    return [{"check": "accepted", "slice": OVERALL, "value": None, "bound": None, "passed": False, "words": words}]
