"""The export, as Python loads it and as TF Serving's session loader runs it."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

from pipeline.config import Config, TrainerConfig, part_of
from serving.c_api import load_arrays, save_arrays
from trainer_module.export import export_model
from trainer_module.model import build_model

ROOT = Path(__file__).parents[2]
SIZES = [(32, 32), (50, 41), (7, 90)]
FITS = {"stretch": {"fit": "stretch"}, "pad": {"fit": "pad"}, "tile": {"fit": "tile", "tile_overlap": 8}}


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pictures() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3)).astype(np.uint8) for size in SIZES]


def masks(config: Config) -> list[np.ndarray]:
    colors = np.array([c.color for c in config.classes], np.uint8)
    generator = np.random.default_rng(1)
    return [colors[generator.integers(0, 4, size)] for size in SIZES]


def records(config: Config) -> list[bytes]:
    def example(index: int, picture: np.ndarray, mask: np.ndarray) -> bytes:
        values = {
            "image/encoded": png(picture),
            "mask/encoded": png(mask),
            "image/id": f"id-{index}".encode(),
            "image/group": b"group",
        }
        feature = {k: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v])) for k, v in values.items()}
        return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()

    return [example(i, *pair) for i, pair in enumerate(zip(pictures(), masks(config), strict=True))]


@pytest.fixture(scope="module", params=sorted(FITS))
def exported(request: Any, make_config: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    config = make_config(image=FITS[request.param], model={"normalization": "batch"})
    model = build_model(32, 32, 4, config.model, seed=0)
    directory = tmp_path_factory.mktemp(request.param) / "export"
    export_model(model, part_of(config, TrainerConfig), {"parameters": model.count_params()}, directory)
    return directory, config


def in_python(directory: Path, signature: str, **inputs: list[bytes]) -> dict[str, np.ndarray]:
    function: Callable[..., Any] = tf.saved_model.load(str(directory)).signatures[signature]
    return {k: v.numpy() for k, v in function(**{k: tf.constant(v) for k, v in inputs.items()}).items()}


def in_session(tmp_path: Path, directory: Path, signature: str, **inputs: list[bytes]) -> dict[str, np.ndarray]:
    """Through TensorFlow's C API, in a process that never imports the tensorflow package."""
    files = tmp_path / "inputs.npz", tmp_path / "outputs.npz"
    save_arrays(files[0], {name: np.array(values, object) for name, values in inputs.items()})
    command = [sys.executable, "-m", "serving.c_api", str(directory), signature, *map(str, files)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return load_arrays(files[1])


def test_masks_have_the_images_own_sizes(exported: tuple[Path, Config]) -> None:
    outputs = in_python(exported[0], "serving_default", image_bytes=[png(p) for p in pictures()])
    class_ids = [np.asarray(Image.open(io.BytesIO(m))) for m in outputs["mask_png"]]
    assert [ids.shape for ids in class_ids] == SIZES
    assert all(ids.max() <= 3 for ids in class_ids)
    shares = [np.bincount(ids.ravel(), minlength=4) / ids.size for ids in class_ids]
    np.testing.assert_allclose(outputs["class_fractions"], shares, atol=1e-6)


def test_serving_and_evaluation_see_the_same_masks(exported: tuple[Path, Config]) -> None:
    directory, config = exported
    served = in_python(directory, "serving_default", image_bytes=[png(p) for p in pictures()])
    measured = in_python(directory, "evaluate", examples=records(config))
    for mask, png_bytes, counts in zip(masks(config), served["mask_png"], measured["counts"], strict=True):
        colors = [tuple(c.color) for c in config.classes]
        truth = np.array([[colors.index(tuple(pixel)) for pixel in row] for row in mask.tolist()])
        predicted = np.asarray(Image.open(io.BytesIO(png_bytes)))
        expected = np.zeros((4, 4))
        np.add.at(expected, (truth, predicted), 1)
        np.testing.assert_array_equal(counts, expected)
        [row] = np.flatnonzero([(counts == other).all() for other in measured["counts"]])
        np.testing.assert_array_equal(ids_of(measured["truth_png"][row]), truth)
        np.testing.assert_array_equal(ids_of(measured["predicted_png"][row]), predicted)
    assert list(measured["image_id"]) == [b"id-0", b"id-1", b"id-2"]


def ids_of(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)))


def test_counts_at_the_models_size_are_of_its_pixels(exported: tuple[Path, Config]) -> None:
    """A stretched image is one tile, a padded one loses its padding, a cut one counts what its tiles share twice."""
    directory, config = exported
    measured = in_python(directory, "evaluate", examples=records(config))
    pixels = measured["model_size_counts"].sum(axis=(1, 2)).tolist()
    own = measured["counts"].sum(axis=(1, 2)).tolist()
    assert own == [32 * 32, 50 * 41, 7 * 90]
    expected = {"stretch": [1024] * 3, "pad": [1024, 32 * 26, 2 * 32]}
    if config.image.fit == "tile":
        assert pixels[0] == own[0] and all(more > less for more, less in zip(pixels[1:], own[1:], strict=True))
    else:
        assert pixels == expected[config.image.fit]


def test_calibration_bins_hold_every_labelled_pixel_once(exported: tuple[Path, Config]) -> None:
    directory, config = exported
    measured = in_python(directory, "evaluate", examples=records(config))
    bins = measured["calibration"]
    assert bins.shape == (3, 15, 3) and bins.dtype == np.float64
    np.testing.assert_array_equal(bins[..., 0].sum(axis=1), measured["counts"].sum(axis=(1, 2)))
    right = np.trace(measured["counts"], axis1=1, axis2=2)
    np.testing.assert_array_equal(bins[..., 2].sum(axis=1), right)
    edges = np.arange(16) / 15
    filled = bins[..., 0] > 0
    confidence = bins[..., 1][filled] / bins[..., 0][filled]
    low, high = np.broadcast_to(edges[:-1], filled.shape)[filled], np.broadcast_to(edges[1:], filled.shape)[filled]
    assert ((low - 1e-6 <= confidence) & (confidence <= high + 1e-6)).all()


def test_more_images_than_a_chunk_give_what_each_gives_alone(exported: tuple[Path, Config]) -> None:
    directory, config = exported
    rows = records(config)
    many = in_python(directory, "evaluate", examples=rows * 13)
    alone = in_python(directory, "evaluate", examples=rows[1:2])
    np.testing.assert_array_equal(many["counts"][1::3], np.repeat(alone["counts"], 13, axis=0))


@pytest.mark.parametrize("signature", ["serving_default", "evaluate"])
def test_the_session_loader_of_tf_serving_gives_what_python_gives(
    exported: tuple[Path, Config], signature: str, tmp_path: Path
) -> None:
    directory, config = exported
    rows = {
        "serving_default": {"image_bytes": [png(p) for p in pictures()]},
        "evaluate": {"examples": records(config)},
    }[signature]
    python, session = in_python(directory, signature, **rows), in_session(tmp_path, directory, signature, **rows)
    assert sorted(session) == sorted(python)
    for name, expected in python.items():
        if expected.dtype == object:
            assert list(session[name]) == list(expected)
        else:
            np.testing.assert_allclose(session[name], expected, rtol=1e-5)


def test_the_graph_neither_calls_python_nor_touches_files(exported: tuple[Path, Config]) -> None:
    proto = saved_model_pb2.SavedModel.FromString((exported[0] / "saved_model.pb").read_bytes())
    functions = proto.meta_graphs[0].graph_def.library.function
    serving = [node.op for function in functions for node in function.node_def]
    forbidden = {"PyFunc", "EagerPyFunc", "PyFuncStateless", "ReadFile", "WriteFile"}
    assert not forbidden & set(serving)
    assert {"DecodeImage", "Conv2D"} <= set(serving)


def test_the_export_carries_its_configuration(exported: tuple[Path, Config]) -> None:
    directory, config = exported
    saved = TrainerConfig.model_validate_json((directory / "assets.extra" / "config.json").read_text())
    assert saved == part_of(config, TrainerConfig)
    assert json.loads((directory / "assets.extra" / "training.json").read_text())["parameters"] > 0


def test_an_empty_batch_is_a_clear_error(exported: tuple[Path, Config]) -> None:
    function = tf.saved_model.load(str(exported[0])).signatures["serving_default"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="batch is empty"):
        function(image_bytes=tf.constant([], tf.string))


def test_a_perfect_model_keeps_every_pixel(make_config: Any, color_reader: Any, tmp_path: Path) -> None:
    config = make_config(image=FITS["tile"])
    export_model(color_reader(), part_of(config, TrainerConfig), {}, tmp_path / "export")
    for mask in masks(config):
        outputs = in_python(tmp_path / "export", "serving_default", image_bytes=[png(mask)])
        class_ids = np.asarray(Image.open(io.BytesIO(outputs["mask_png"][0])))
        np.testing.assert_array_equal(np.array([c.color for c in config.classes])[class_ids], mask)


def test_probability_sums_are_the_seeds_metric_and_cross_entropy(
    make_config: Any, color_reader: Any, tmp_path: Path
) -> None:
    """SEED defect 1: summed over background too, its Dice is the mean probability of the true class."""
    config = make_config()
    model = color_reader(bias=(1.0, 0.5, 0.0, 0.0), blind=1)
    export_model(model, part_of(config, TrainerConfig), {}, tmp_path / "export")
    outputs = in_python(tmp_path / "export", "evaluate", examples=records(config)[:1])
    probabilities = model(np.stack(pictures()[:1])).numpy()[0]
    colors = [tuple(c.color) for c in config.classes]
    truth = np.array([[colors.index(tuple(pixel)) for pixel in row] for row in masks(config)[0].tolist()])
    true = np.take_along_axis(probabilities, truth[..., None], -1)
    expected = [truth.size, true.sum(), -np.log(true.clip(1e-7)).sum()]
    np.testing.assert_allclose(outputs["probability_sums"][0], expected, rtol=1e-4)
