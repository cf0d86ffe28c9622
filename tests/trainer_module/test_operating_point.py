"""From a target to thresholds in the export: chosen on `eval` at the images' own size, served and measured alike."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from examples import record, serialized, write_examples
from pictures import encoded
from PIL import Image
from steel import COLORS

from flexunet.core.config.gate import GateSettings
from flexunet.core.config.section import part_of
from flexunet.core.config.train import TrainerConfig
from flexunet.core.operating_point import THRESHOLDS, DefectRule, Scored, above, curves_of
from flexunet.core.regions import find_defects, without_small
from flexunet.serving.client import predict_image
from flexunet.serving.exported import exported_config, exported_operating_point, exported_thresholds
from flexunet.serving.rounding import at_the_boundary
from flexunet.serving.tiling import predict_tiled
from trainer_module.export import export_model
from trainer_module.operating_point import choose_operating_point
from transform_module.images import fit_class_ids, fit_image
from transform_module.preprocessing import preprocessing_fn

RULE = DefectRule(0.25, 0.0005)
SIZE = (48, 40)


def pairs(count: int, seed: int = 3) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images of another size than the model's, whose defects are seen dimly and whose noise looks like some."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        ids = np.zeros(SIZE, np.uint8)
        for class_id in (1, 2, 3):
            row, column = generator.integers(0, 30, 2)
            ids[row : row + 9, column : column + 9] = class_id
        dimmed = np.array(COLORS)[ids] * generator.uniform(0.2, 0.6)
        specks = (generator.random((12, 10)) < 0.05).repeat(4, 0).repeat(4, 1)[..., None] * generator.integers(
            0, 120, 3
        )
        found.append(((dimmed + specks).clip(0, 255).astype(np.uint8), ids))
    return found


@pytest.fixture(scope="module")
def exported(make_config: Any, color_reader: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("point")
    config = part_of(make_config(operating_point={"target": "found >= 0.9"}), TrainerConfig)
    return export_with_target(color_reader(), config, pairs(12), folder)


def export_with_target(model: Any, config: TrainerConfig, images: Any, folder: Path) -> Path:
    """What Trainer does behind Transform, with these images for `eval`."""
    columns = {key: [[value] for value in values] for key, values in raw(images).items()}
    custom = {"config": config.model_dump_json(include={"classes", "records", "image"}), "own_size": "yes"}
    rows = preprocessing_fn({key: tf.constant(column) for key, column in columns.items()}, custom)
    assert set(rows) == {"image", "class_ids", "truth_png"}
    examples = [serialized({name: rows[name][i].numpy() for name in rows}) for i in range(len(images))]
    point = choose_operating_point(model, [str(write_examples(folder / "eval.gz", examples))], config, RULE)
    export_model(model, config, {}, folder / "export", point)
    return folder / "export"


def raw(images: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, list[bytes]]:
    colors = np.array(COLORS, np.uint8)
    return {
        "image/encoded": [encoded(image) for image, _ in images],
        "mask/encoded": [encoded(colors[ids]) for _, ids in images],
        "image/id": [b"%d" % index for index in range(len(images))],
    }


class InProcess:
    """A model for the client, run by TensorFlow in this process."""

    def __init__(self, directory: Path) -> None:
        self._loaded = tf.saved_model.load(str(directory))

    def run(self, signature: str, inputs: dict[str, Any], outputs: Any = ()) -> dict[str, np.ndarray]:
        arrays = {
            name: tf.constant(value.tolist() if value.dtype == object else value) for name, value in inputs.items()
        }
        return {name: value.numpy() for name, value in self._loaded.signatures[signature](**arrays).items()}


def test_a_client_that_cuts_images_applies_the_operating_point_too(exported: Path) -> None:
    point, local = exported_operating_point(exported), InProcess(exported)
    assert point is not None
    image = np.tile(pairs(1)[0][0], (2, 2, 1))
    tiled = predict_tiled(local, image, (32, 32))  # type: ignore[arg-type]
    tiles = local.run("probabilities", {"pixels": image[np.newaxis, :32, :32]})
    # The corner is in one tile alone.
    alone = above(tiles["probabilities"][0], tiles["thresholds"][0].tolist())
    assert (tiled.class_ids[:8, :8] == alone[:8, :8]).mean() > 0.9
    smallest = [1, *point["smallest_regions"].values()]
    np.testing.assert_array_equal(tiled.class_ids, without_small(tiled.class_ids, smallest))


def ids_of(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_the_export_answers_and_measures_with_the_thresholds_that_were_chosen(exported: Path) -> None:
    point, thresholds = exported_operating_point(exported), exported_thresholds(exported)
    assert point is not None and thresholds is not None
    assert point["images"] == 12 and point["problems"] == []
    assert all(threshold in THRESHOLDS for threshold in thresholds)
    smallest, local = [1, *point["smallest_regions"].values()], InProcess(exported)
    loaded = tf.saved_model.load(str(exported)).signatures
    # Every answer says what is not applied.
    assert len(loaded) == 6
    for signature in loaded.values():
        assert {"thresholds", "smallest_regions_not_applied"} <= set(signature.structured_outputs)
    images = pairs(12)
    colors = np.array(COLORS, np.uint8)
    served = loaded["serving_default"](image_bytes=tf.constant([encoded(i) for i, _ in images]))
    examples = tf.constant([record(image, colors[ids]) for image, ids in images])
    measured = {name: value.numpy() for name, value in loaded["evaluate"](examples=examples).items()}
    pixels = tf.constant(np.stack([image for image, _ in images]))
    told = loaded["probabilities"](pixels=pixels)
    probabilities = told["probabilities"].numpy()
    for outputs in (served, told, loaded["pixels"](pixels=pixels)):
        assert outputs["thresholds"].numpy()[0].tolist() == pytest.approx([0.0, *thresholds])
        assert outputs["smallest_regions_not_applied"].numpy().tolist() == [smallest] * 12
    class_ids = loaded["pixels"](pixels=pixels)["class_ids"].numpy()
    best, ids = probabilities[..., 1:].max(-1), probabilities[..., 1:].argmax(-1)
    expected = np.where(best > np.array(thresholds, np.float32)[ids], ids + 1, 0)
    decided = ~at_the_boundary(probabilities, thresholds)
    assert decided.mean() > 0.9 and (expected != probabilities.argmax(-1)).any()
    found, present, false = np.zeros((3, 4))
    for index, (_, truth) in enumerate(images):
        predicted = ids_of(measured["predicted_png"][index])
        for answer in (predicted, ids_of(served["mask_png"].numpy()[index]), class_ids[index]):
            np.testing.assert_array_equal(answer[decided[index]], expected[index][decided[index]])
        answer = predict_image(local, encoded(images[index][0]))
        whole = without_small(ids_of(served["mask_png"].numpy()[index]), smallest)
        assert (answer.class_ids != whole).sum() <= (~decided[index]).sum()
        assert answer.class_fractions.sum() == pytest.approx(1)
        defects = find_defects(truth, without_small(predicted, smallest), 4, *RULE)
        found, present, false = found + defects.found, present + defects.present, false + defects.false
        scored = Scored(*np.moveaxis(ids_of(measured["scored_png"][index]), -1, 0))
        curves = curves_of(truth, scored, 4, RULE, [[pixels] for pixels in smallest])
        for class_id, threshold in enumerate(thresholds, start=1):
            assert curves.found[class_id, THRESHOLDS.index(threshold), 0] == defects.found[class_id]
            assert curves.false[class_id, THRESHOLDS.index(threshold), 0] == defects.false[class_id]
    # What was chosen on `eval` is what the export gives on the same images.
    assert list(point["found_share"].values()) == pytest.approx((found / np.maximum(present, 1))[1:])
    assert min((found / np.maximum(present, 1))[1:]) >= 0.9
    assert point["false_regions_per_megapixel"] == pytest.approx(false.sum() / (12 * 48 * 40) * 1e6)


def test_at_the_models_size_the_thresholds_count_too(exported: Path) -> None:
    thresholds, settings = exported_thresholds(exported), exported_config(exported).image
    assert thresholds is not None
    local, colors = InProcess(exported), np.array(COLORS, np.uint8)
    examples = np.array([record(image, colors[ids]) for image, ids in pairs(12)], object)
    counts = local.run("evaluate", {"examples": examples})["model_size_counts"].sum(axis=0)
    small = np.concatenate([fit_image(tf.constant(image), settings) for image, _ in pairs(12)])
    truth = np.concatenate([fit_class_ids(tf.constant(ids), settings) for _, ids in pairs(12)])
    probabilities = local.run("probabilities", {"pixels": small})["probabilities"]
    expected, predicted = np.zeros((4, 4)), above(probabilities, [0.0, *thresholds])
    np.add.at(expected, (truth, predicted), 1)
    unsure = at_the_boundary(probabilities, thresholds).sum()
    assert (predicted != probabilities.argmax(-1)).sum() > unsure and counts.sum() == truth.size
    assert np.abs(counts - expected).sum() <= 2 * unsure


def test_a_class_that_eval_does_not_show_is_named(make_config: Any, color_reader: Any, tmp_path: Path) -> None:
    config = part_of(make_config(operating_point={"target": "found >= 0.9"}), TrainerConfig)
    image, ids = pairs(1)[0]
    ids = np.where(ids == 2, 0, ids).astype(np.uint8)
    tiles = np.asarray(Image.fromarray(image).resize((32, 32)))[None]
    values = {"image": tf.io.serialize_tensor(tiles).numpy(), "truth_png": encoded(ids)}
    file = write_examples(tmp_path / "eval.gz", [serialized(values)])
    point = choose_operating_point(color_reader(), [str(file)], config, RULE)
    assert point["found_share"]["patches"] is None
    assert "`eval` shows no patches: its threshold is a guess" in point["problems"]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["found >= 0.9", "at most 300 false regions per megapixel"])
def test_what_was_chosen_on_eval_holds_on_test_within_its_interval(
    make_config: Any, color_reader: Any, tmp_path: Path, target: str
) -> None:
    from evaluation import evaluate_values

    from components.gate import metrics_json

    whole = make_config(operating_point={"target": target}, gate={"resamples": 400})
    directory = export_with_target(color_reader(), part_of(whole, TrainerConfig), pairs(150, seed=4), tmp_path)
    colors = np.array(COLORS, np.uint8)
    records = [record(image, colors[ids], f"id-{i}", f"group-{i}") for i, (image, ids) in enumerate(pairs(150, seed=5))]
    write_examples(tmp_path / "records" / "test.gz", records)
    evaluation = evaluate_values([directory], tmp_path / "records", part_of(whole, GateSettings))
    point, defects = (
        exported_operating_point(directory),
        metrics_json(evaluation, part_of(whole, GateSettings))["defects"],
    )
    assert point is not None and point["problems"] == []
    if target.startswith("found"):
        low, high = evaluation.interval("defects_found") or (1.0, 0.0)
        assert low <= (defects["found_share"] or 0.0) <= high and high >= 0.9
    else:
        low, high = evaluation.interval("false_regions_per_megapixel") or (1e9, 0.0)
        assert low <= 300 and (defects["found"] or 0) > 0
