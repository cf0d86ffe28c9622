"""What the serving validator finds in good exports and in those that only Python can load."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from examples import record

from components.serving_validator import _beyond_bounds, check_export
from flexunet.core.config.section import part_of
from flexunet.core.config.serving import ServingConfig, ServingSettings
from flexunet.core.config.train import TrainerConfig
from flexunet.core.config.whole import Config
from flexunet.core.results.operating import OperatingPoint
from trainer_module.export import export_model
from trainer_module.model import build_model


def records(config: Config, count: int = 3) -> list[bytes]:
    generator = np.random.default_rng(0)
    colors = np.array([c.color for c in config.classes], np.uint8)
    made = []
    for index in range(count):
        mask = colors[generator.integers(0, 4, (20 + index, 30))]
        mask[:10, :10] = colors[0]
        made.append(record(mask, mask))
    return made


@pytest.fixture(scope="module")
def config(make_config: Any) -> Config:
    return make_config()


@pytest.fixture(scope="module")
def export(config: Config, color_reader: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("good") / "export"
    export_model(color_reader(), part_of(config, TrainerConfig), {}, directory)
    return directory


def rewritten(export: Path, target: Path, change: Callable[[tf.Module], dict[str, Any]]) -> Path:
    """The export with other signatures, its assets kept."""
    module = tf.saved_model.load(str(export))
    tf.saved_model.save(module, str(target), signatures=change(module))
    shutil.copytree(export / "assets.extra", target / "assets.extra")
    return target


def check(directory: Path, config: Config, **serving: Any) -> dict[str, Any]:
    settings = part_of(config, ServingSettings)
    settings = settings.model_copy(update={"serving": settings.serving.model_copy(update=serving)})
    return check_export(directory, records(config), settings)


def test_a_good_export_is_measured_and_refused_by_nothing_but_bounds_that_are_set(
    export: Path, config: Config, tmp_path: Path
) -> None:
    """What `evaluate` takes is no memory of a server."""

    def change(module: tf.Module) -> dict[str, Any]:
        evaluate = module.signatures["evaluate"]

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
        def hungry(examples: tf.Tensor) -> dict[str, tf.Tensor]:
            outputs = evaluate(examples=examples)
            ballast = tf.fill([800 * 2**20], tf.cast(tf.size(examples), tf.uint8))
            none = tf.cast(tf.reduce_max(ballast) > 100, outputs["counts"].dtype)
            return {**outputs, "counts": outputs["counts"] + none}

        module.hungry = hungry
        return {**module.signatures, "evaluate": hungry}

    hungry = rewritten(export, tmp_path / "export", change)
    findings = check(hungry, config, max_latency_seconds=1e-9, max_memory_megabytes=1e-9)
    assert [problem.rpartition("(")[2] for problem in findings["problems"]] == [
        "serving.max_latency_seconds)",
        "serving.max_memory_megabytes)",
    ]
    assert 0 < findings["latency_seconds"]["p50"] <= findings["latency_seconds"]["p95"] < 5
    assert findings["batch"]["rows"] == 16 and findings["batch"]["images_per_second"] > 1
    assert 0 < findings["megabytes_above_idle"] < 400 and findings["idle_megabytes"] > 50


def test_a_check_that_takes_too_long_refuses(export: Path, config: Config) -> None:
    findings = check(export, config, timeout_seconds=0.05)
    assert findings == {"problems": ["the check took longer than 0.05 s (serving.timeout_seconds)"]}


@pytest.mark.parametrize(("bound", "problems"), [(None, 0), (100.0, 1)])
def test_a_bound_that_this_kernel_cannot_measure_is_said(config: Config, bound: float | None, problems: int) -> None:
    settings = part_of(config, ServingSettings)
    settings = settings.model_copy(update={"serving": ServingConfig(max_memory_megabytes=bound)})
    found = [*_beyond_bounds({"problems": [], "latency_seconds": {"p50": 0.1, "p95": 0.1}}, settings)]
    assert len(found) == problems and all("unset the bound" in problem for problem in found)


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


# Logits of a black pixel: a tie that 1e-6 decides, of the background with a class, and of two classes of which the
# better one is below its threshold.
TIE = (1.0, 1.0 + 2.5e-6, 0.0, 0.0)
TIE_OF_DEFECTS = (0.0, 0.0, -2.5e-6, -20.0)
POINT: OperatingPoint = {
    "target": "found >= 0.9",
    "thresholds": {"inclusion": 0.5, "patches": 0.05, "scratches": 0.05},
    "smallest_regions": dict.fromkeys(("inclusion", "patches", "scratches"), 1),
    "images": 3,
    "found_share": dict.fromkeys(("inclusion", "patches", "scratches"), 1.0),
    "false_regions_per_megapixel": 0.0,
    "problems": [],
}


@pytest.mark.parametrize(
    ("bias", "for_each_row", "point"),
    [(TIE, (1e-6, 0.0, 0.0, 0.0), None), (TIE_OF_DEFECTS, (0.0, 0.0, 1e-6, 0.0), POINT)],
    ids=["most probable", "operating point"],
)
def test_a_pixel_that_rounding_decides_refuses_nothing(
    config: Config,
    color_reader: Any,
    tmp_path: Path,
    bias: tuple[float, ...],
    for_each_row: tuple[float, ...],
    point: OperatingPoint | None,
) -> None:
    """A third of real images have one: its class in a batch of three is another than alone."""
    model = with_logits(color_reader(bias=bias), lambda logits: logits + [*for_each_row] * batch_rows(logits))
    export_model(model, part_of(config, TrainerConfig), {}, tmp_path / "export", point)
    assert mask_in_a_batch(tmp_path / "export", config, 1) != mask_in_a_batch(tmp_path / "export", config, 3)
    assert check(row_by_row(tmp_path / "export", tmp_path / "alone"), config)["problems"] == []


def test_a_batch_size_that_changes_more_than_rounding_refuses(
    config: Config, color_reader: Any, tmp_path: Path
) -> None:
    reader = color_reader(bias=(1.0, 1.05, 0.0, 0.0))
    model = with_logits(reader, lambda logits: logits + [0.02, 0.0, 0.0, 0.0] * batch_rows(logits))
    export_model(model, part_of(config, TrainerConfig), {}, tmp_path / "export")
    problems = check(row_by_row(tmp_path / "export", tmp_path / "alone"), config)["problems"]
    assert problems[0].startswith("the size of the batch changes the answer: ")
    assert [problem[:12] for problem in problems[-3:]] == ["test image 0", "test image 1", "test image 2"]


@pytest.mark.parametrize(
    "mates",
    [
        # As a normalization does it that was exported in training mode.
        pytest.param(lambda logits: tf.reduce_mean(logits, axis=0, keepdims=True), id="statistics"),
        pytest.param(lambda logits: logits[::-1], id="reversed", marks=pytest.mark.slow),
        pytest.param(lambda logits: logits[:1], id="first", marks=pytest.mark.slow),
    ],
)
def test_rows_mixed_by_a_hundredth_of_their_logits_refuse(
    config: Config, color_reader: Any, tmp_path: Path, mates: Callable[[Any], Any]
) -> None:
    """The masks stay as they are: the colours are 20 logits apart."""
    export_model(
        with_logits(color_reader(), lambda logits: 0.99 * logits + 0.01 * mates(logits)),
        part_of(config, TrainerConfig),
        {},
        tmp_path / "export",
    )
    assert any("other batch-mates change row" in problem for problem in check(tmp_path / "export", config)["problems"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
def test_no_training_is_refused_for_its_rounding(make_config: Any, tmp_path: Path, seed: int) -> None:
    """Grey images of 200x200, and a model that has not learnt much: many pixels are undecided."""
    config = make_config(image={"height": 200, "width": 200})
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (8, 25, 25, 1), np.uint8).repeat(8, 1).repeat(8, 2).repeat(3, 3)
    class_ids = np.where(images[..., 0] > 200, 1 + seed % 3, 0)
    keras.utils.set_random_seed(seed)
    model = build_model(config)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images.astype(np.float32), class_ids, batch_size=4, epochs=2, verbose=0)
    export_model(model, part_of(config, TrainerConfig), {}, tmp_path / "export")
    colors = np.array([c.color for c in config.classes], np.uint8)
    rows = [record(image, colors[ids]) for image, ids in zip(images, class_ids, strict=True)]
    assert check_export(tmp_path / "export", rows, part_of(config, ServingSettings))["problems"] == []


def row_by_row(export: Path, target: Path) -> Path:
    """The export with an evaluation in batches of one."""

    def change(module: tf.Module) -> dict[str, Any]:
        evaluate = module.signatures["evaluate"]
        kinds = {name: spec.dtype for name, spec in evaluate.structured_outputs.items()}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
        def alone(examples: tf.Tensor) -> dict[str, tf.Tensor]:
            def one(example: tf.Tensor) -> dict[str, tf.Tensor]:
                return {name: row[0] for name, row in evaluate(examples=example[tf.newaxis]).items()}

            return tf.map_fn(one, examples, fn_output_signature=kinds)

        module.alone = alone
        return {**module.signatures, "evaluate": alone}

    return rewritten(export, target, change)


def mask_in_a_batch(directory: Path, config: Config, rows: int) -> bytes:
    image = tf.train.Example.FromString(records(config)[0]).features.feature["image/encoded"].bytes_list.value[0]
    function: Any = tf.saved_model.load(str(directory)).signatures["serving_default"]
    return function(image_bytes=tf.constant([image] * rows))["mask_png"].numpy()[0]


def with_logits(model: Any, change: Callable[[Any], Any]) -> Any:
    """`color_reader`, with a layer before its softmax."""

    class Change(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            return change(inputs)

    return keras.Model(model.inputs, model.layers[-1](Change()(model.layers[-2].output)))


def batch_rows(logits: Any) -> Any:
    return tf.cast(tf.shape(logits)[0], tf.float32)
