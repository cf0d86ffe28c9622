"""Our messages are TensorFlow Serving's on the wire."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import get_model_status_pb2, predict_pb2, prediction_log_pb2

from flexunet.serving import wire
from flexunet.serving.protos import predict_pb2 as ours

ARRAYS = [
    np.arange(6, dtype=np.uint8).reshape(1, 2, 3),
    np.array([[1.5, np.nan], [-0.0, 3e38]], np.float32),
    np.array([True, False]),
    np.array([-1, 2**40]),
    np.array(7, np.int32),
    np.zeros((0, 4), np.float32),
    wire.as_strings([b"a\0b\0", b"", b"\xff"]),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_tensors_are_those_of_tensorflow(array: np.ndarray) -> None:
    sent = wire.to_tensor(array).SerializeToString()
    read = tf.make_ndarray(tensor_pb2.TensorProto.FromString(sent))
    np.testing.assert_array_equal(read, array)
    assert read.shape == array.shape
    for spelled in (tf.make_tensor_proto(array), tensor_pb2.TensorProto.FromString(sent)):
        received = wire.from_tensor(ours.Tensor.FromString(spelled.SerializeToString()))
        np.testing.assert_array_equal(received, array)
        assert received.shape == array.shape


def test_values_that_a_server_spells_one_by_one_or_once_for_all() -> None:
    shape = ours.Shape(dim=[ours.Shape.Dim(size=2), ours.Shape.Dim(size=2)])
    one_by_one = ours.Tensor(dtype=1, tensor_shape=shape, float_val=[1, 2, 3, 4])
    np.testing.assert_array_equal(wire.from_tensor(one_by_one), np.array([[1, 2], [3, 4]], np.float32))
    once = ours.Tensor(dtype=4, tensor_shape=shape, int_val=[9])
    np.testing.assert_array_equal(wire.from_tensor(once), np.full((2, 2), 9, np.uint8))
    flags = ours.Tensor(dtype=10, tensor_shape=shape, bool_val=[True, False, True, False])
    assert wire.from_tensor(flags).tolist() == [[True, False], [True, False]]


def test_an_unknown_type_is_named() -> None:
    with pytest.raises(ValueError, match="DataType 8, expected one of"):
        wire.from_tensor(ours.Tensor(dtype=8))


def test_a_request_is_tensorflow_servings() -> None:
    request = wire.predict_request("pixels", {"pixels": np.ones((1, 2, 2, 3), np.uint8)}, ["class_ids"], "m", 7)
    theirs = predict_pb2.PredictRequest.FromString(request.SerializeToString())
    spec = theirs.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("m", 7, "pixels")
    assert list(theirs.output_filter) == ["class_ids"]
    np.testing.assert_array_equal(tf.make_ndarray(theirs.inputs["pixels"]), np.ones((1, 2, 2, 3), np.uint8))
    log = prediction_log_pb2.PredictionLog.FromString(
        ours.PredictionLog(predict_log=ours.PredictLog(request=request)).SerializeToString()
    )
    assert log.predict_log.request == theirs


def test_a_status_is_tensorflow_servings() -> None:
    version = ours.ModelVersionStatus(version=3, state=wire.AVAILABLE)
    sent = ours.GetModelStatusResponse(model_version_status=[version]).SerializeToString()
    [theirs] = get_model_status_pb2.GetModelStatusResponse.FromString(sent).model_version_status
    assert (theirs.version, theirs.state) == (3, get_model_status_pb2.ModelVersionStatus.AVAILABLE)


def test_options_of_a_run_are_tensorflows() -> None:
    sent = ours.RunOptions(timeout_in_ms=2**31 - 1).SerializeToString()
    assert config_pb2.RunOptions.FromString(sent) == config_pb2.RunOptions(timeout_in_ms=2**31 - 1)


def test_a_truncated_warmup_file_is_named(tmp_path: Path, color_export: Path) -> None:
    extra = tmp_path / "assets.extra"
    extra.mkdir()
    whole = (color_export / "assets.extra" / "tf_serving_warmup_requests").read_bytes()
    (extra / "tf_serving_warmup_requests").write_bytes(whole[:-30])
    records: Any = wire.read_warmup(tmp_path)
    with pytest.raises(ValueError, match="truncated"):
        list(records)
