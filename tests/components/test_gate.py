"""The gate, each verdict through TFX's real Evaluator."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tfx.components.evaluator import executor
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import json_utils, proto_utils

from components import gate
from dataset.ingest import ingest
from pipeline.beam import LOCAL_BEAM_ARGS
from pipeline.config import GateSettings, TrainerConfig, part_of
from pipeline.evaluation import make_eval_config
from trainer_module.export import export_model
from trainer_module.model import build_model

Evaluate = Callable[..., tuple[bool, gate.Evaluation]]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory, make_config: Any, write_solid_pairs: Any) -> Path:
    folder = tmp_path_factory.mktemp("gate")
    write_solid_pairs(folder / "source", 12)
    config = make_config(dataset={"train": 0.4, "eval": 0.2, "test": 0.4})
    version = ingest(folder / "source", folder / "out", config).version
    assert version is not None
    for split in ("train", "eval", "test"):
        (version / split).rename(version / f"Split-{split}")
    return version


@pytest.fixture
def evaluate(records: Path, tmp_path: Path, make_config: Any) -> Evaluate:
    """Runs the Evaluator's executor on exported models; returns TFX's blessing and the scores."""

    def artifact(kind: Any, uri: Path) -> Any:
        result = kind()
        result.uri = str(uri)
        return result

    def export(model: Any, name: str) -> Any:
        directory = tmp_path / name
        export_model(model, part_of(make_config(), TrainerConfig), {}, directory / "Format-Serving")
        return artifact(standard_artifacts.Model, directory)

    def run(model: Any, baseline: Any = None, **bounds: Any) -> tuple[bool, gate.Evaluation]:
        examples = artifact(standard_artifacts.Examples, records)
        examples.split_names = artifact_utils.encode_split_names(["train", "eval", "test"])
        inputs = {"examples": [examples], "model": [export(model, "candidate")]}
        if baseline is not None:
            inputs["baseline_model"] = [export(baseline, "baseline")]
        blessing = artifact(standard_artifacts.ModelBlessing, tmp_path / "blessing")
        outputs = {
            "blessing": [blessing],
            "evaluation": [artifact(standard_artifacts.ModelEvaluation, tmp_path / "evaluation")],
        }
        settings = part_of(make_config(gate={"min_foreground_dice": 0.9, **bounds}), GateSettings)
        properties = {
            "eval_config": proto_utils.proto_to_json(make_eval_config(settings, "code")),
            "example_splits": json_utils.dumps(["test"]),
        }
        context = base_beam_executor.BaseBeamExecutor.Context(
            beam_pipeline_args=list(LOCAL_BEAM_ARGS), tmp_dir=str(tmp_path / "tmp"), unique_id="1"
        )
        executor.Executor(context).Do(inputs, outputs, properties)
        return blessing.get_int_custom_property("blessed") == 1, gate.Evaluation(str(tmp_path / "evaluation"))

    return run


def all_passed(evaluation: gate.Evaluation) -> bool:
    checks = gate.gate_checks(evaluation)
    assert checks
    return all(check["passed"] for check in checks)


def test_a_perfect_model_is_blessed(evaluate: Evaluate, color_reader: Any, make_config: Any) -> None:
    blessed, evaluation = evaluate(color_reader())
    metrics = gate.metrics_json(evaluation, part_of(make_config(), GateSettings))
    assert blessed and evaluation.validation_ok and all_passed(evaluation)
    assert metrics["foreground_dice"] == 1.0
    assert metrics["classes"]["scratches"]["precision"] == 1.0
    assert metrics["examples"] == 5
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_all_background_is_refused_though_pixel_accuracy_and_the_seeds_dice_are_high(
    evaluate: Evaluate, color_reader: Any, make_config: Any
) -> None:
    """SEED defect 1."""
    blessed, evaluation = evaluate(color_reader(bias=(60.0, 0.0, 0.0, 0.0)))
    metrics = gate.metrics_json(evaluation, part_of(make_config(), GateSettings))
    assert not blessed and not all_passed(evaluation)
    assert metrics["foreground_dice"] == 0.0
    assert metrics["pixel_accuracy"] > 0.7
    assert metrics["seed_dice"] == pytest.approx(metrics["pixel_accuracy"], abs=1e-4)


def test_one_class_everywhere_is_refused(evaluate: Evaluate, color_reader: Any) -> None:
    blessed, evaluation = evaluate(color_reader(bias=(0.0, 0.0, 60.0, 0.0)))
    assert not blessed and not all_passed(evaluation)


def test_an_untrained_model_is_refused(evaluate: Evaluate, make_config: Any) -> None:
    config = make_config()
    blessed, evaluation = evaluate(build_model(32, 32, 4, config.model, seed=0))
    assert not blessed and not all_passed(evaluation)


def test_a_model_that_answers_nan_is_refused(evaluate: Evaluate, color_reader: Any, make_config: Any) -> None:
    blessed, evaluation = evaluate(color_reader(bias=(float("nan"),) * 4))
    metrics = gate.metrics_json(evaluation, part_of(make_config(), GateSettings))
    assert not blessed and not all_passed(evaluation)
    assert metrics["foreground_dice"] is None
    assert "undefined" in metrics["gate"][0]["words"]


def test_blind_to_one_class_is_refused_by_that_class_bound(evaluate: Evaluate, color_reader: Any) -> None:
    blessed, evaluation = evaluate(
        color_reader(blind=3), min_foreground_dice=0.5, min_class_dice={"scratches": 0.1, "patches": 0.9}
    )
    verdicts = {check["check"]: check["passed"] for check in gate.gate_checks(evaluation)}
    assert not blessed
    assert verdicts == {"foreground_dice": True, "dice/patches": True, "dice/scratches": False}


def test_worse_than_the_baseline_is_refused(evaluate: Evaluate, color_reader: Any) -> None:
    blessed, evaluation = evaluate(color_reader(blind=3), color_reader(), min_foreground_dice=0.5)
    verdicts = {check["check"]: check["passed"] for check in gate.gate_checks(evaluation)}
    assert not blessed
    assert verdicts == {"foreground_dice": True, "foreground_dice against baseline": False}
    assert evaluation.difference("foreground_dice") == pytest.approx(-1 / 3, abs=1e-6)


def test_equal_to_the_baseline_is_blessed(evaluate: Evaluate, color_reader: Any) -> None:
    blessed, evaluation = evaluate(color_reader(), color_reader(), max_regression=0.0)
    assert blessed and all_passed(evaluation)
    assert [check["value"] for check in gate.gate_checks(evaluation)] == [1.0, 0.0]


def test_better_than_the_baseline_but_below_the_bound_is_refused(evaluate: Evaluate, color_reader: Any) -> None:
    blessed, evaluation = evaluate(color_reader(blind=3), color_reader(bias=(60.0, 0.0, 0.0, 0.0)))
    assert not blessed
    assert evaluation.difference("foreground_dice") > 0.6
    assert not all_passed(evaluation)


def test_counts_add_up_over_the_test_split_only(evaluate: Evaluate, color_reader: Any) -> None:
    _, evaluation = evaluate(color_reader())
    assert evaluation.counts.sum() == 5 * 32 * 32
    np.testing.assert_array_equal(evaluation.counts, np.diag(np.diag(evaluation.counts)))
