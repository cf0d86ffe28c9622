"""The C API against real exports: what Python gives, what the session refuses, strings, errors and memory."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from flexunet.serving.c_api import SavedModel, SavedModelError, TensorInfo, load_arrays, pack, save_arrays, unpack
from flexunet.serving.rounding import at_the_boundary

ROOT = Path(__file__).parents[2]
UNKNOWN_RANK: Any = None  # TensorFlow's type stubs do not allow it as a shape; TensorSpec does.

# Runs the command line and fails if anything imported tensorflow.
RUN_WITHOUT_TENSORFLOW = """
import sys
from flexunet.serving.c_api import main
main(sys.argv[1:])
imported = [name for name in sys.modules if name.partition(".")[0] in ("tensorflow", "keras")]
assert not imported, imported
"""

# Prints by how many bytes the resident set grows over 200 runs of 64 strings of 4 KB and 128 KB of numbers.
MEASURE_RUNS = """
import sys
from pathlib import Path
import numpy as np
from flexunet.serving.c_api import SavedModel

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

inputs = {
    "texts": np.array([b"x" * 4096] * 64, object),
    "flags": np.zeros(4, bool),
    "shorts": np.zeros(32768, np.int32),
    "longs": np.int64(0)[...],
}
with SavedModel(Path(sys.argv[1])) as model:
    for _ in range(20):
        model.run("echo", inputs)
    before = resident_bytes()
    for _ in range(200):
        model.run("echo", inputs)
    print(resident_bytes() - before)
"""


class ServedModule(tf.Module):
    """The export that works: it tracks the variables behind the Keras model's."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self.model = model
        self.served_variables = [variable.value for variable in model.variables]

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def predict(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.ensure_shape(images, [None, None, None, 3])
        return {"probabilities": self.model(tf.cast(images, tf.float32), training=False)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="encoded")])
    def segment(self, encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.map_fn(
            lambda image: tf.ensure_shape(tf.io.decode_png(image, channels=3), [None, None, 3]),
            encoded,
            fn_output_signature=tf.TensorSpec([None, None, 3], tf.uint8),
        )
        probabilities = self.predict(images)["probabilities"]
        masks = tf.expand_dims(tf.cast(tf.argmax(probabilities, axis=-1), tf.uint8), axis=-1)
        pngs = tf.map_fn(tf.io.encode_png, masks, fn_output_signature=tf.string)
        return {"mask_png": pngs, "confidence": tf.reduce_mean(tf.reduce_max(probabilities, axis=-1), axis=[1, 2])}

    @tf.function(
        input_signature=[
            tf.TensorSpec(UNKNOWN_RANK, tf.string, name="texts"),
            tf.TensorSpec([None], tf.bool, name="flags"),
            tf.TensorSpec([None], tf.int32, name="shorts"),
            tf.TensorSpec([], tf.int64, name="longs"),
        ]
    )
    def echo(self, texts: tf.Tensor, flags: tf.Tensor, shorts: tf.Tensor, longs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"texts": texts, "flags": flags, "shorts": shorts, "longs": longs, "sizes": tf.strings.length(texts)}


@dataclass(frozen=True)
class Exports:
    served: Path
    keras: Path


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    directory = tmp_path_factory.mktemp("exports")
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(4, 3, padding="same"), keras.layers.Softmax()]
    model = keras.Sequential([keras.Input((None, None, 3)), *layers])
    module = ServedModule(model)
    signatures: Any = {"predict": module.predict, "segment": module.segment, "echo": module.echo}
    tf.saved_model.save(module, str(directory / "served"), signatures=signatures)
    tf.saved_model.save(model, str(directory / "keras"))
    return Exports(directory / "served", directory / "keras")


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), np.uint8)


def echo_inputs(texts: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "texts": texts,
        "flags": np.array([True, False]),
        "shorts": np.array([-1, 2], np.int32),
        "longs": np.array(2**40, np.int64),
    }


def strings(*items: bytes) -> np.ndarray:
    array = np.empty(len(items), object)
    array[:] = items
    return array


def interpret(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run this interpreter anew, from the root of the checkout."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def ids_of(png: bytes) -> np.ndarray:
    return tf.io.decode_png(png)[..., 0].numpy()


def run_in_python(directory: Path, signature: str, **inputs: tf.Tensor) -> dict[str, np.ndarray]:
    loaded: Any = tf.saved_model.load(str(directory))
    return {name: value.numpy() for name, value in loaded.signatures[signature](**inputs).items()}


def run_in_session(tmp_path: Path, directory: Path, signature: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Run a signature by the command line, in an interpreter that never imports tensorflow."""
    save_arrays(tmp_path / "inputs.npz", inputs)
    files = (tmp_path / "inputs.npz", tmp_path / "outputs.npz")
    result = interpret("-c", RUN_WITHOUT_TENSORFLOW, directory, signature, *files)
    assert result.returncode == 0, result.stderr
    return load_arrays(files[1])


# Exports


def test_tracked_variables_give_what_python_gives(exports: Exports, images: np.ndarray, tmp_path: Path):
    expected = run_in_python(exports.served, "predict", images=tf.constant(images))
    actual = run_in_session(tmp_path, exports.served, "predict", images=images)
    assert actual.keys() == {"probabilities"}
    assert actual["probabilities"].dtype == np.float32
    np.testing.assert_allclose(actual["probabilities"], expected["probabilities"], rtol=0, atol=1e-6)


def test_encoded_images_give_the_masks_that_python_gives(exports: Exports, images: np.ndarray, tmp_path: Path):
    encoded = strings(*(tf.io.encode_png(image).numpy() for image in images))
    expected = run_in_python(exports.served, "segment", encoded=tf.constant(list(encoded)))
    actual = run_in_session(tmp_path, exports.served, "segment", encoded=encoded)
    assert actual.keys() == {"mask_png", "confidence"}
    free = at_the_boundary(run_in_python(exports.served, "predict", images=tf.constant(images))["probabilities"])
    found, masks = (np.stack([ids_of(png) for png in outputs["mask_png"]]) for outputs in (actual, expected))
    np.testing.assert_array_equal(np.where(free, masks, found), masks)
    np.testing.assert_allclose(actual["confidence"], expected["confidence"], rtol=0, atol=1e-6)


def test_saving_a_keras_model_directly_loads_in_python_and_fails_in_the_session(
    exports: Exports, images: np.ndarray, tmp_path: Path
):
    inputs = {"inputs": images.astype(np.float32)}
    assert run_in_python(exports.keras, "serving_default", inputs=tf.constant(inputs["inputs"]))
    save_arrays(tmp_path / "inputs.npz", inputs)
    files = (tmp_path / "inputs.npz", tmp_path / "outputs.npz")
    result = interpret("-m", "flexunet.serving.c_api", exports.keras, "serving_default", *files)
    assert result.returncode == 1
    assert "error: signature 'serving_default' of" in result.stderr
    assert "Could not find variable" in result.stderr
    assert not files[1].exists()


def test_saving_a_keras_model_directly_fails_at_the_first_request_and_not_before(exports: Exports, images: np.ndarray):
    with SavedModel(exports.keras) as model, pytest.raises(SavedModelError, match="Could not find variable"):
        model.run("serving_default", {"inputs": images.astype(np.float32)})


def test_signatures_say_graph_names_and_dtypes(exports: Exports):
    with SavedModel(exports.served) as model:
        assert model.signatures.keys() == {"predict", "segment", "echo"}
        assert model.signatures["predict"].inputs == {"images": TensorInfo("predict_images:0", np.dtype(np.uint8))}
        dtypes = {name: info.dtype for name, info in model.signatures["echo"].outputs.items()}
    assert dtypes == {"texts": object, "flags": bool, "shorts": np.int32, "longs": np.int64, "sizes": np.int32}


# Errors


@pytest.mark.parametrize(
    ("signature", "inputs", "message"),
    [
        ("mask", {}, r"has no signature 'mask'; its signatures: echo, predict, segment$"),
        ("predict", {}, r"missing input images; signature 'predict' takes: images \(uint8\)$"),
        (
            "predict",
            {"images": np.zeros((1, 4, 4, 3), np.uint8), "image": np.zeros(1)},
            r"unknown input image; signature 'predict' takes: images \(uint8\)$",
        ),
        (
            "predict",
            {"images": np.zeros((1, 4, 4, 3), np.float32)},
            r"input images has numpy dtype float32; signature 'predict' takes: images \(uint8\)$",
        ),
        (
            "segment",
            {"encoded": np.array([b"png"])},
            r"input encoded has numpy dtype \|S3; .* takes: encoded \(string: object array of bytes\)$",
        ),
        ("segment", {"encoded": np.array(["png"], object)}, r"input encoded is an object array with items other than"),
    ],
)
def test_a_request_that_does_not_fit_says_what_would(
    exports: Exports, signature: str, inputs: dict[str, np.ndarray], message: str
):
    with SavedModel(exports.served) as model, pytest.raises(SavedModelError, match=message) as caught:
        model.run(signature, inputs)
    assert "\n" not in str(caught.value)


def test_what_the_graph_raises_is_reported_and_the_model_still_serves(exports: Exports, images: np.ndarray):
    with SavedModel(exports.served) as model:
        with pytest.raises(SavedModelError, match=r"Shape of tensor .* \[4\] is not compatible"):
            model.run("predict", {"images": np.zeros(4, np.uint8)})
        assert model.run("predict", {"images": images})["probabilities"].shape == (2, 16, 24, 4)


def test_loading_says_why_it_cannot(exports: Exports, tmp_path: Path):
    with pytest.raises(SavedModelError, match=r"cannot load .* Could not find SavedModel"):
        SavedModel(tmp_path)
    with pytest.raises(SavedModelError, match=r"cannot load .* with tags \['train'\]: Could not find meta graph"):
        SavedModel(exports.served, tags=("train",))
    with pytest.raises(SavedModelError, match=r"no libtensorflow_cc.so.2 in"):
        SavedModel(exports.served, library_directory=tmp_path)


def test_a_closed_model_refuses_to_run(exports: Exports, images: np.ndarray):
    with SavedModel(exports.served) as model:
        pass
    model.close()
    with pytest.raises(SavedModelError, match=r"is closed$"):
        model.run("predict", {"images": images})


# Tensors


@pytest.mark.parametrize(
    "texts",
    [
        # Up to 22 bytes lie inside a TF_TString, longer ones outside.
        strings(b"", b"\0", b"a\0b\0", b"x" * 22, b"x" * 23, b"\0" * 1000, bytes(range(256))),
        strings(b"a", b"", b"", b"b\0").reshape(2, 2),
        np.array(b"scalar\0", object),
        np.empty((0,), object),
    ],
    ids=["lengths", "matrix", "scalar", "none"],
)
def test_arrays_come_back_as_they_went(exports: Exports, texts: np.ndarray):
    inputs = echo_inputs(texts)
    with SavedModel(exports.served) as model:
        outputs = model.run("echo", inputs)
    for name, array in inputs.items():
        assert outputs[name].dtype == array.dtype
        assert outputs[name].shape == array.shape
        assert outputs[name].tolist() == array.tolist()
    assert outputs["sizes"].ravel().tolist() == [len(text) for text in texts.flat]


def test_a_transposed_array_is_sent_in_its_own_order(exports: Exports, images: np.ndarray):
    flipped = images.transpose(0, 2, 1, 3)
    with SavedModel(exports.served) as model:
        actual, expected = (model.run("predict", {"images": array}) for array in (flipped, flipped.copy("C")))
    np.testing.assert_array_equal(actual["probabilities"], expected["probabilities"])


def test_repeated_runs_keep_their_memory(exports: Exports):
    result = interpret("-c", MEASURE_RUNS, exports.served)
    assert result.returncode == 0, result.stderr
    # One leaked copy of the strings would be 52 MB, one of the numbers 26 MB.
    assert int(result.stdout) < 8_000_000


# Files


def test_packing_spells_strings_as_bytes_and_lengths():
    packed = pack({"names": strings(b"a\0", b"", b"bc\0"), "sizes": np.array([1.5])})
    assert packed["names.bytes"].tobytes() == b"a\0bc\0"
    assert packed["names.lengths"].tolist() == [2, 0, 3]
    assert packed.keys() == {"names.bytes", "names.lengths", "sizes"}


def test_files_keep_strings_shapes_and_any_name(tmp_path: Path):
    arrays = {
        "file": strings(b"a\0", b"", b"", b"b").reshape(2, 2),
        "allow_pickle": np.array(b"scalar", object),
        "none": np.empty((0, 3), object),
        "images": np.zeros((0, 2), np.uint8),
    }
    save_arrays(tmp_path / "arrays", arrays)
    loaded = load_arrays(tmp_path / "arrays")
    assert {name: (array.dtype, array.shape) for name, array in loaded.items()} == {
        name: (array.dtype, array.shape) for name, array in arrays.items()
    }
    assert [loaded[name].tolist() for name in arrays] == [array.tolist() for array in arrays.values()]


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        ({"a.bytes": np.zeros(1, np.uint8)}, "strings 'a' need both a.bytes and a.lengths"),
        ({"a.bytes": np.zeros(1, np.uint8), "a.lengths": np.array([2])}, "a.lengths do not add up to the 1 bytes"),
        ({"a.bytes": np.zeros(1, np.uint8), "a.lengths": np.array([2, -1])}, "a.lengths do not add up to the 1 bytes"),
    ],
)
def test_strings_that_do_not_add_up_are_refused(packed: dict[str, np.ndarray], message: str):
    with pytest.raises(ValueError, match=message):
        unpack(packed)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a.bytes": np.zeros(1)}, "'a.bytes' ends in .bytes or .lengths"),
        ({"a": np.array(["text"], object)}, "'a' has items other than bytes"),
    ],
)
def test_arrays_that_cannot_be_packed_are_refused(arrays: dict[str, np.ndarray], message: str):
    with pytest.raises(ValueError, match=message):
        pack(arrays)


def test_pickled_arrays_are_refused(tmp_path: Path):
    np.savez(tmp_path / "pickled.npz", texts=np.array([b"a"], object))
    with pytest.raises(ValueError, match="allow_pickle"):
        load_arrays(tmp_path / "pickled.npz")
