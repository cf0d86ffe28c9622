"""What the serving validator finds in good exports and in those that only Python can load."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.serving_validator import check_export
from flexunet.core.config.section import part_of
from flexunet.core.config.serving import ServingSettings
from flexunet.core.config.train import TrainerConfig
from flexunet.core.config.whole import Config
from trainer_module.export import export_model


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def records(config: Config, count: int = 3) -> list[bytes]:
    generator = np.random.default_rng(0)
    colors = np.array([c.color for c in config.classes], np.uint8)
    made = []
    for index in range(count):
        mask = colors[generator.integers(0, 4, (20 + index, 30))]
        values = {"image/encoded": png(mask), "mask/encoded": png(mask), "image/id": b"id", "image/group": b"group"}
        feature = {k: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v])) for k, v in values.items()}
        made.append(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    return made


@pytest.fixture(scope="module")
def config(make_config: Any) -> Config:
    return make_config()


@pytest.fixture(scope="module")
def export(config: Config, color_reader: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("good") / "export"
    export_model(color_reader(), part_of(config, TrainerConfig), {}, directory)
    return directory


def check(directory: Path, config: Config, **serving: Any) -> dict[str, Any]:
    settings = part_of(config, ServingSettings)
    settings = settings.model_copy(update={"serving": settings.serving.model_copy(update=serving)})
    return check_export(directory, records(config), settings)


def test_a_good_export_has_no_problem_and_is_measured(export: Path, config: Config) -> None:
    findings = check(export, config)
    assert findings["problems"] == []
    assert 0 < findings["latency_seconds"]["p50"] <= findings["latency_seconds"]["p95"] < 5
    assert findings["batch"]["rows"] == 16 and findings["batch"]["images_per_second"] > 1
    assert 0 < findings["megabytes_above_idle"] < 400 and findings["idle_megabytes"] > 50


def test_bounds_that_are_set_refuse(export: Path, config: Config) -> None:
    problems = check(export, config, max_latency_seconds=1e-9, max_memory_megabytes=1e-9)["problems"]
    assert [problem.rpartition("(")[2] for problem in problems] == [
        "serving.max_latency_seconds)",
        "serving.max_memory_megabytes)",
    ]


def test_a_check_that_takes_too_long_refuses(export: Path, config: Config) -> None:
    findings = check(export, config, timeout_seconds=0.05)
    assert findings == {"problems": ["the check took longer than 0.05 s (serving.timeout_seconds)"]}


def rewritten(export: Path, target: Path, change: Callable[[tf.Module], dict[str, Any]]) -> Path:
    """The export with other signatures, its assets kept."""
    module = tf.saved_model.load(str(export))
    tf.saved_model.save(module, str(target), signatures=change(module))
    shutil.copytree(export / "assets.extra", target / "assets.extra")
    return target


def test_an_evaluation_that_counts_other_pixels_refuses(export: Path, config: Config, tmp_path: Path) -> None:
    def change(module: tf.Module) -> dict[str, Any]:
        evaluate = module.signatures["evaluate"]

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
        def shifted(examples: tf.Tensor) -> dict[str, tf.Tensor]:
            outputs = evaluate(examples=examples)
            return {**outputs, "counts": tf.roll(outputs["counts"], 1, axis=-1)}

        module.shifted = shifted
        return {**module.signatures, "evaluate": shifted}

    findings = check(rewritten(export, tmp_path / "export", change), config)
    assert len(findings["problems"]) == 3
    assert findings["problems"][0].startswith("test image 0: serving_default counts [[")


def test_weights_that_are_no_numbers_refuse(config: Config, color_reader: Any, tmp_path: Path) -> None:
    model = color_reader()
    model.layers[-2].set_weights([w * np.nan for w in model.layers[-2].get_weights()])
    export_model(model, part_of(config, TrainerConfig), {}, tmp_path / "export")
    problems = check(tmp_path / "export", config)["problems"]
    assert "warm-up of serving_default, 1 rows: the model gave no number" in problems
    assert "warm-up of probabilities, 1 rows: probabilities is not finite" in problems


def test_an_export_that_only_python_can_load_refuses(
    export: Path, config: Config, color_reader: Any, tmp_path: Path
) -> None:
    """The common mistake: a module that merely holds the Keras model."""

    class Holder(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = color_reader()

        @tf.function(input_signature=[tf.TensorSpec([None, 32, 32, 3], tf.uint8, name="pixels")])
        def probabilities(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"probabilities": self.model(pixels)}

    holder, target = Holder(), tmp_path / "export"
    names = ("serving_default", "serving_rest", "serving_examples", "pixels", "probabilities", "evaluate")
    tf.saved_model.save(holder, str(target), signatures=dict.fromkeys(names, holder.probabilities))
    assert tf.saved_model.load(str(target)) is not None
    shutil.copytree(export / "assets.extra", target / "assets.extra")
    [problem] = check(target, config)["problems"]
    assert "serving_default" in problem or "Could not find variable" in problem


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("assets.extra/tf_serving_warmup_requests", b"", "no warm-up record for pixels"),
        ("assets.extra/tf_serving_warmup_requests", b"\x01", "the warm-up file is truncated"),
        ("assets.extra/config.json", b"{}", "not of this version"),
        ("saved_model.pb", b"not a model", "cannot load"),
    ],
    ids=["no-warm-up", "broken-warm-up", "no-config", "no-graph"],
)
def test_a_damaged_export_refuses(
    export: Path, config: Config, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    damaged = shutil.copytree(export, tmp_path / "export")
    (damaged / name).write_bytes(content)
    assert any(words in problem for problem in check(damaged, config)["problems"])
