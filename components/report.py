"""The report node: runs after every evaluation, also of a refused model, and writes `metrics.json`."""

import json
from pathlib import Path
from typing import Any, Final

from tfx import v1 as tfx
from tfx.components.pusher.executor import _PUSHED_VERSION_KEY
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import Artifact, artifact, artifact_utils, component_spec, standard_artifacts
from tfx.utils import path_utils

from components import gate
from pipeline.config import GateSettings
from pipeline.features import ASSETS_EXTRA, EXPORTED_TRAINING, SPLIT_TEST

METRICS_FILE: Final = "metrics.json"
FORMAT: Final = 1


class Report(artifact.Artifact):
    """A folder with `metrics.json`."""

    TYPE_NAME = "SegmentationReport"


class Executor(base_executor.BaseExecutor):
    """Derives all scores and the gate's words from the evaluation."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        self._log_startup(input_dict, output_dict, exec_properties)
        settings = GateSettings.model_validate_json(exec_properties["settings"])
        evaluation = gate.Evaluation(artifact_utils.get_single_uri(input_dict["evaluation"]))
        model = artifact_utils.get_single_instance(input_dict["model"])
        facts = gate.training_facts(_serving_path(model) / ASSETS_EXTRA / EXPORTED_TRAINING)
        metrics = {
            "format": FORMAT,
            "run_id": None,
            "pushed_version": _pushed_version(artifact_utils.get_single_instance(input_dict["pushed_model"])),
            "split": SPLIT_TEST,
            **gate.metrics_json(evaluation, settings),
            "baseline": _baseline(evaluation, input_dict.get("baseline_model") or []),
            "parameters": facts["parameters"],
            "train_seconds": facts["train_seconds"],
        }
        directory = Path(artifact_utils.get_single_uri(output_dict["report"]))
        directory.mkdir(parents=True, exist_ok=True)
        (directory / METRICS_FILE).write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n", encoding="utf-8")


class ReportSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of the report node."""

    PARAMETERS = {
        "settings": component_spec.ExecutionParameter(type=str),
        "code": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "evaluation": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
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
        pushed_model: tfx.types.BaseChannel,
        baseline_model: tfx.types.BaseChannel,
        settings: str,
        code: str,
    ) -> None:
        spec = ReportSpec(
            evaluation=evaluation,
            model=model,
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


def _baseline(evaluation: gate.Evaluation, models: list[Artifact]) -> dict[str, Any] | None:
    if not models:
        return None
    return {
        "model": models[0].uri,
        "foreground_dice": gate.number(evaluation.score(gate.names.FOREGROUND_DICE, baseline=True)),
        "difference": gate.number(evaluation.difference(gate.names.FOREGROUND_DICE)),
        "difference_interval": None,
    }
