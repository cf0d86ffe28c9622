"""The folds' models as one SavedModel, judged as every model is: by the gate on `test` and by the serving validator."""

import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from components import reporter
from components.serving_validator import check_export
from flexunet.core import features
from flexunet.core.config.section import part_of
from flexunet.core.config.serving import ServingSettings
from flexunet.core.config.train import TrainerConfig
from flexunet.core.files import write_json
from flexunet.core.results.metrics import Details, Metrics
from flexunet.core.results.serving import Serving
from flexunet.core.results.training import TrainingFacts
from flexunet.core.root import ReportFolder
from flexunet.dataset.manifest import newest_versions
from pipeline.measure import measure
from pipeline.study.crossvalidation import Validated
from pipeline.study.records import record_files, records_of
from pipeline.study.training import read_weights
from trainer_module.ensemble import export_ensemble


def judge_ensemble(validated: Validated, data: Path, model: Path, report: Path) -> tuple[Metrics, Details]:
    """Exports to `model`, measures on `test`, and serves a few of its records as TF Serving would.

    Args:
      validated: all folds of a recipe.
      data: what `flexunet ingest` wrote.
      model: the folder of the SavedModel; what is there is replaced.
      report: gets `metrics.json`, `details.json` and `serving.json`.
    """
    config = validated.arm.config
    seconds = sum(fold.get("train_seconds", 0.0) for fold in validated.facts)
    epochs = sum(fold.get("epochs", 0) for fold in validated.facts)
    shutil.rmtree(model, ignore_errors=True)
    facts: TrainingFacts = {**validated.facts[0], "epochs": epochs, "train_seconds": round(seconds, 1)}
    members = [read_weights(folder) for folder in validated.folders]
    export_ensemble(members, part_of(config, TrainerConfig), facts, model)
    metrics, details = measure(model, data, config, out=report)
    settings = part_of(config, ServingSettings)
    findings = check_export(model, list(islice(_test_records(data), settings.serving.test_images)), settings)
    serving: Serving = {"blessed": not findings["problems"], **findings}
    reporter.judge(metrics, serving)
    folder = ReportFolder(report)
    write_json(folder.serving, serving)
    write_json(folder.metrics, metrics)
    return metrics, details


def _test_records(data: Path) -> Iterator[bytes]:
    [newest] = newest_versions(data, 1)
    return records_of(record_files(newest, features.SPLIT_TEST))
