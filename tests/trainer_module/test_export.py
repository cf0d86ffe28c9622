"""The export, as Python loads it and as TF Serving's session loader runs it."""

import functools
import io
import json
import math
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from examples import record
from pictures import encoded
from PIL import Image
from processes import python
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from flexunet.core.config.section import part_of
from flexunet.core.config.train import TrainerConfig
from flexunet.core.config.whole import Config
from flexunet.serving.c_api import SavedModel, SavedModelError, load_arrays, save_arrays
from flexunet.serving.rounding import ROUNDING, at_the_boundary, moved_pixels
from flexunet.serving.wire import as_strings, read_warmup
from trainer_module.export import export_model, exported_weights
from trainer_module.model import build_model
from trainer_module.signatures import check_graph
from transform_module.graphs import traced_once

SIGNATURES = ["serving_default", "serving_rest", "serving_examples", "pixels", "probabilities", "evaluate"]
SIZES = [(32, 32), (50, 41), (7, 90)]
FITS = {"stretch": {"fit": "stretch"}, "pad": {"fit": "pad"}, "tile": {"fit": "tile", "tile_overlap": 8}}


def pictures() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3)).astype(np.uint8) for size in SIZES]


def masks(config: Config) -> list[np.ndarray]:
    colors = np.array([c.color for c in config.classes], np.uint8)
    generator = np.random.default_rng(1)
    return [colors[generator.integers(0, 4, size)] for size in SIZES]


def records(config: Config) -> list[bytes]:
    pairs = zip(pictures(), masks(config), strict=True)
    return [record(picture, mask, f"id-{index}") for index, (picture, mask) in enumerate(pairs)]


# What padding changes, test_images.py of transform_module tells; here it is once more a whole export.
FITTED = [pytest.param(fit, marks=[pytest.mark.slow] if fit == "pad" else []) for fit in sorted(FITS)]


@pytest.fixture(scope="module", params=FITTED)
def exported(request: Any, make_config: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    config = make_config(image=FITS[request.param], model={"normalization": "batch"})
    model = build_model(config)
    directory = tmp_path_factory.mktemp(request.param) / "export"
    export_model(model, part_of(config, TrainerConfig), {"parameters": model.count_params()}, directory)
    return directory, config


@functools.cache
def loaded(directory: Path) -> Any:
    return tf.saved_model.load(str(directory))


def in_python(directory: Path, signature: str, **inputs: Any) -> dict[str, np.ndarray]:
    function: Callable[..., Any] = loaded(directory).signatures[signature]
    return {k: v.numpy() for k, v in function(**{k: tf.constant(v) for k, v in inputs.items()}).items()}


# TF Serving's loader, in a process that never imports the tensorflow package: each signature on its file of inputs.
SESSION = """
import sys
from pathlib import Path
from flexunet.serving.c_api import SavedModel, load_arrays, save_arrays

directory, folder = map(Path, sys.argv[1:])
with SavedModel(directory) as model:
    for inputs in folder.glob("*.inputs"):
        save_arrays(inputs.with_suffix(".outputs"), model.run(inputs.stem, load_arrays(inputs)))
assert "tensorflow" not in sys.modules
"""


def requests(config: Config) -> dict[str, dict[str, Any]]:
    """Inputs for each signature."""
    images, examples = {"image_bytes": [encoded(p) for p in pictures()]}, {"examples": records(config)}
    pixels = {"pixels": np.stack([pictures()[1]] * 3)}
    return dict(zip(SIGNATURES, [images, images, examples, pixels, pixels, examples], strict=True))


@pytest.fixture(scope="module")
def sessions(exported: tuple[Path, Config], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a session answers to the requests, by signature."""
    directory, config = exported
    folder = tmp_path_factory.mktemp("session")
    for signature, inputs in requests(config).items():
        arrays = {n: v if isinstance(v, np.ndarray) else np.array(v, object) for n, v in inputs.items()}
        save_arrays(folder / f"{signature}.inputs", arrays)
    python("-c", SESSION, directory, folder)
    return {file.stem: load_arrays(file) for file in folder.glob("*.outputs")}


def test_a_graph_holds_what_branches_and_loops_share_once(exported: tuple[Path, Config]) -> None:
    """A load goes through all nodes: with a copy in each branch it took twice as long."""
    saved = saved_model_pb2.SavedModel.FromString((exported[0] / "saved_model.pb").read_bytes())
    names = [function.signature.name for function in saved.meta_graphs[0].graph_def.library.function]
    for shared in ("_answer_images", "_mask", "_decode_labelled", "_measure"):
        assert len([name for name in names if re.fullmatch(rf"__inference_{shared}_\d+", name)]) == 1, shared


def test_a_python_branch_over_a_tensor_is_refused_and_not_rewritten() -> None:
    with pytest.raises(tf.errors.OperatorNotAllowedInGraphError):
        traced_once(lambda number: 1 if number > 0 else 0)(tf.constant(1))


def test_each_weight_is_written_once(exported: tuple[Path, Config]) -> None:
    directory, config = exported
    written = tf.train.list_variables(str(directory / "variables" / "variables"))
    numbers = [math.prod(shape) for name, shape in written if not name.startswith("_CHECKPOINTABLE")]
    assert sum(numbers) == sum(w.size for w in exported_weights(str(directory))) == build_model(config).count_params()


def test_masks_have_the_images_own_sizes(exported: tuple[Path, Config]) -> None:
    outputs = in_python(exported[0], "serving_default", image_bytes=[encoded(p) for p in pictures()])
    class_ids = [np.asarray(Image.open(io.BytesIO(m))) for m in outputs["mask_png"]]
    assert [ids.shape for ids in class_ids] == SIZES
    assert all(ids.max() <= 3 for ids in class_ids)
    shares = [np.bincount(ids.ravel(), minlength=4) / ids.size for ids in class_ids]
    np.testing.assert_allclose(outputs["class_fractions"], shares, atol=1e-6)


def test_serving_and_evaluation_see_the_same_masks(exported: tuple[Path, Config]) -> None:
    directory, config = exported
    served = in_python(directory, "serving_default", image_bytes=[encoded(p) for p in pictures()])
    measured = in_python(directory, "evaluate", examples=records(config))
    rows = (measured[name] for name in ("counts", "truth_png", "predicted_png"))
    found = zip(pictures(), masks(config), served["mask_png"], *rows, strict=True)
    for picture, mask, png_bytes, counts, truth_png, predicted_png in found:
        colors = [tuple(c.color) for c in config.classes]
        truth = np.array([[colors.index(tuple(pixel)) for pixel in row] for row in mask.tolist()])
        predicted = np.asarray(Image.open(io.BytesIO(png_bytes)))
        expected = np.zeros((4, 4))
        np.add.at(expected, (truth, predicted), 1)
        assert moved_pixels(counts, expected) <= undecided(directory, picture).sum()
        np.testing.assert_array_equal(ids_of(truth_png), truth)
        assert_same_classes(ids_of(predicted_png), predicted, undecided(directory, picture))
    assert list(measured["image_id"]) == [b"id-0", b"id-1", b"id-2"]


def ids_of(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)))


def undecided(directory: Path, picture: np.ndarray) -> np.ndarray:
    """Where rounding may choose another class, bool `[h, w]`."""
    return at_the_boundary(in_python(directory, "probabilities", pixels=picture[None])["probabilities"][0])


def assert_same_classes(found: np.ndarray, expected: np.ndarray, free: np.ndarray) -> None:
    np.testing.assert_array_equal(np.where(free, expected, found), expected)
    assert free.mean() < 0.5


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
    free = undecided(directory, pictures()[1]).sum()
    assert all(moved_pixels(counts, alone["counts"][0]) <= free for counts in many["counts"][1::3])


@pytest.mark.parametrize("signature", SIGNATURES)
def test_the_session_loader_of_tf_serving_gives_what_python_gives(
    exported: tuple[Path, Config], sessions: dict[str, Any], signature: str
) -> None:
    directory, config = exported
    session, here = sessions[signature], in_python(directory, signature, **requests(config)[signature])
    assert sorted(session) == sorted(here)
    free = [undecided(directory, picture) for picture in pictures()]
    for name, expected in here.items():
        if name in ("mask_png", "mask_png_bytes", "predicted_png"):
            for found, mask, where in zip(session[name], expected, free, strict=True):
                assert_same_classes(ids_of(found), ids_of(mask), where)
        elif expected.dtype == object:
            assert session[name].tolist() == expected.tolist()
        elif "counts" in name or name == "calibration":
            # A pixel that rounding moves leaves one number and joins another.
            assert np.abs(session[name] - expected).sum() <= 4 * np.sum([where.sum() for where in free])
        elif name == "class_ids":
            assert_same_classes(session[name], expected, np.stack([free[1]] * 3))
        else:
            np.testing.assert_allclose(session[name], expected, rtol=1e-3, atol=ROUNDING)


def test_the_graph_neither_calls_python_nor_touches_files(exported: tuple[Path, Config]) -> None:
    proto = saved_model_pb2.SavedModel.FromString((exported[0] / "saved_model.pb").read_bytes())
    functions = proto.meta_graphs[0].graph_def.library.function
    serving = [node.op for function in functions for node in function.node_def]
    forbidden = {"PyFunc", "EagerPyFunc", "PyFuncStateless", "ReadFile", "WriteFile"}
    assert not forbidden & set(serving)
    assert {"DecodeImage", "Conv2D"} <= set(serving)


@pytest.mark.parametrize(
    ("reader", "op"),
    [
        (lambda: tf.py_function(lambda: tf.constant(1.0), [], tf.float32), "EagerPyFunc"),
        (lambda: tf.strings.to_number(tf.io.read_file("/nowhere")), "ReadFile"),
    ],
    ids=["python", "file"],
)
def test_a_graph_with_python_or_files_is_refused(reader: Callable[[], Any], op: str, tmp_path: Path) -> None:
    module = tf.Module()
    module.call = tf.function(reader, input_signature=[])
    tf.saved_model.save(module, str(tmp_path / "export"), signatures={"serving_default": module.call})
    proto = saved_model_pb2.SavedModel.FromString((tmp_path / "export" / "saved_model.pb").read_bytes())
    with pytest.raises(ValueError, match=f"the export holds {op}, expected a graph"):
        check_graph(proto)


def test_every_served_signature_is_warmed_up_and_its_requests_succeed(exported: tuple[Path, Config]) -> None:
    directory, _ = exported
    warmed: dict[str, list[int]] = {}
    for signature, inputs in read_warmup(directory):
        [rows] = {len(array) for array in inputs.values()}
        outputs = in_python(directory, signature, **{k: v if v.dtype != object else list(v) for k, v in inputs.items()})
        assert {len(array) for array in outputs.values()} == {rows}
        assert outputs.get("valid", np.array(True)).all()
        warmed.setdefault(signature, []).append(rows)
    assert warmed == {signature: [1, 16] for signature in SIGNATURES if signature != "evaluate"}
    written = list(tf.data.TFRecordDataset(str(directory / "assets.extra" / "tf_serving_warmup_requests")))
    logs = [prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in written]
    assert [log.predict_log.request.model_spec.signature_name for log in logs][:5] == SIGNATURES[:5]


def test_requests_in_one_moment_neither_fail_nor_hold_each_other(exported: tuple[Path, Config]) -> None:
    """Broken and whole images, pixels of several sizes, and requests without rows."""
    with SavedModel(exported[0]) as model:
        requests = [("serving_default", {"image_bytes": as_strings([encoded(p), b"broken"])}) for p in pictures()]
        requests += [("serving_rest", {"image_bytes": as_strings([encoded(p)] * 20)}) for p in pictures()]
        requests += [(name, {"pixels": p[None]}) for p in pictures() for name in ("pixels", "probabilities")]
        alone = [model.run(*request) for request in requests]
        empty = [("serving_default", {"image_bytes": as_strings([])}), ("pixels", {"pixels": pictures()[0][None][:0]})]
        with ThreadPoolExecutor(64) as pool:
            refused = [pool.submit(model.run, *request) for request in empty * 20]
            together = list(pool.map(lambda request: model.run(*request), requests * 4))
            for future in refused:
                with pytest.raises(SavedModelError, match="the batch is empty, expected at least one row"):
                    future.result(timeout=30)
    for found, expected in zip(together, alone * 4, strict=True):
        assert {name: len(array) for name, array in found.items()} == {n: len(a) for n, a in expected.items()}
        for name in {"valid", "error"} & found.keys():
            assert found[name].tolist() == expected[name].tolist()
        for name in {"confidence", "probabilities"} & found.keys():
            np.testing.assert_allclose(found[name], expected[name], atol=ROUNDING)


def test_pixels_and_probabilities_agree_with_encoded_images(exported: tuple[Path, Config]) -> None:
    directory = exported[0]
    for picture in pictures():
        served = in_python(directory, "serving_default", image_bytes=[encoded(picture)])
        expected = np.asarray(Image.open(io.BytesIO(served["mask_png"][0])))
        class_ids = in_python(directory, "pixels", pixels=picture[None])["class_ids"]
        probabilities = in_python(directory, "probabilities", pixels=picture[None])["probabilities"]
        assert class_ids.dtype == np.uint8 and probabilities.dtype == np.float32
        assert_same_classes(class_ids[0], expected, at_the_boundary(probabilities[0]))
        assert_same_classes(probabilities[0].argmax(-1), expected, at_the_boundary(probabilities[0]))
        assert served["confidence"][0] == pytest.approx(probabilities[0].max(-1).mean(), rel=1e-4)


def test_records_are_served_like_their_images_with_or_without_a_mask(exported: tuple[Path, Config]) -> None:
    directory, config = exported
    expected = in_python(directory, "serving_default", image_bytes=[encoded(p) for p in pictures()])
    for examples in (records(config), [tf.train.Example.FromString(r) for r in records(config)]):
        bare = []
        for example in examples:
            if not isinstance(example, bytes):
                del example.features.feature["mask/encoded"]
            bare.append(example if isinstance(example, bytes) else example.SerializeToString())
        served = in_python(directory, "serving_examples", examples=bare)
        for picture, found, mask in zip(pictures(), served["mask_png"], expected["mask_png"], strict=True):
            assert_same_classes(ids_of(found), ids_of(mask), undecided(directory, picture))


def test_records_that_are_broken_are_rows_that_say_so(exported: tuple[Path, Config]) -> None:
    directory, config = exported
    good = records(config)[0]
    served = in_python(directory, "serving_examples", examples=[b"\xff\xff", good, b""])
    assert list(served["valid"]) == [False, True, False]
    nothing = b"no bytes; expected a PNG, JPEG, BMP or WebP picture: copy it again"
    assert list(served["error"]) == [nothing, b"", nothing]


def test_pixels_of_no_size_or_too_many_are_refused(exported: tuple[Path, Config]) -> None:
    function = loaded(exported[0]).signatures["pixels"]
    for shape in ((1, 0, 5, 3), (1, 7072, 7072, 3)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="from 1 to 50000000 pixels"):
            function(pixels=tf.zeros(shape, tf.uint8))


def test_a_model_that_gives_no_number_answers_that_it_does(make_config: Any, color_reader: Any, tmp_path: Path) -> None:
    config = make_config()
    model = color_reader()
    model.layers[-2].set_weights([w * np.nan for w in model.layers[-2].get_weights()])
    export_model(model, part_of(config, TrainerConfig), {}, tmp_path / "export")
    outputs = in_python(tmp_path / "export", "serving_default", image_bytes=[encoded(pictures()[0])])
    assert not outputs["valid"][0]
    assert outputs["error"][0] == b"the model gave no number"
    assert outputs["class_fractions"].tolist() == [[0, 0, 0, 0]]


def test_the_export_carries_its_configuration(exported: tuple[Path, Config]) -> None:
    directory, config = exported
    saved = TrainerConfig.model_validate_json((directory / "assets.extra" / "config.json").read_text())
    assert saved == part_of(config, TrainerConfig)
    assert json.loads((directory / "assets.extra" / "training.json").read_text())["parameters"] > 0


def test_an_empty_batch_is_a_clear_error(exported: tuple[Path, Config]) -> None:
    function = loaded(exported[0]).signatures["serving_default"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="batch is empty"):
        function(image_bytes=tf.constant([], tf.string))


def test_a_perfect_model_keeps_every_pixel(make_config: Any, color_reader: Any, tmp_path: Path) -> None:
    config = make_config(image=FITS["tile"])
    export_model(color_reader(), part_of(config, TrainerConfig), {}, tmp_path / "export")
    for mask in masks(config):
        outputs = in_python(tmp_path / "export", "serving_default", image_bytes=[encoded(mask)])
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
