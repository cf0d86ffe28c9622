"""TensorFlow Serving's messages: arrays to tensors and back, requests, answers, and files of warm-up records."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import DTypeLike

from flexunet.core import features
from flexunet.serving.dtypes import DTYPE_NUMBERS, DTYPES
from flexunet.serving.protos import predict_pb2 as pb

PREDICT: Final = "/tensorflow.serving.PredictionService/Predict"
MODEL_METADATA: Final = "/tensorflow.serving.PredictionService/GetModelMetadata"
MODEL_STATUS: Final = "/tensorflow.serving.ModelService/GetModelStatus"
# What `flexunet serve` and the manifests call the model.
MODEL_NAME: Final = "flexunet"
AVAILABLE: Final = 30
# Labels of its versions: the one that everybody asks, and one that a share of the requests tries.
STABLE: Final = "stable"
CANARY: Final = "canary"

# JSON does not tell number types.
OUTPUT_DTYPES: Final[Mapping[str, DTypeLike]] = {
    features.OUTPUT_MASK_PNG: object,
    features.OUTPUT_MASK_PNG_REST: object,
    features.OUTPUT_ERROR: object,
    features.OUTPUT_CLASS_NAMES: object,
    features.OUTPUT_VALID: np.bool_,
    features.OUTPUT_CLASS_FRACTIONS: np.float32,
    features.OUTPUT_CONFIDENCE: np.float32,
    features.OUTPUT_CLASS_IDS: np.uint8,
    features.OUTPUT_PROBABILITIES: np.float32,
}

# By the dtype's kind: where a server puts values that it does not send as tensor_content.
_VALUE_FIELDS: Final = {"f": "float_val", "u": "int_val", "b": "bool_val"}


def as_strings(values: Sequence[bytes]) -> np.ndarray:
    """An object array `[N]` of bytes; numpy alone would make fixed-length strings of them, and cut trailing NULs."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def to_tensor(array: np.ndarray) -> pb.Tensor:
    """An array, strings as objects of bytes, as a TensorProto."""
    shape = pb.Shape(dim=[pb.Shape.Dim(size=size) for size in array.shape])
    tensor = pb.Tensor(dtype=DTYPE_NUMBERS[array.dtype], tensor_shape=shape)
    if array.dtype.hasobject:
        tensor.string_val.extend(array.flat)
    else:
        tensor.tensor_content = np.ascontiguousarray(array).tobytes()
    return tensor


def from_tensor(tensor: pb.Tensor) -> np.ndarray:
    """A TensorProto as an array.

    Raises:
      ValueError: an unknown type, or values that do not fill the shape.
    """
    if tensor.dtype not in DTYPES:
        raise ValueError(f"a tensor of DataType {tensor.dtype}, expected one of {sorted(DTYPES)}")
    dtype, shape = DTYPES[tensor.dtype], [dim.size for dim in tensor.tensor_shape.dim]
    if dtype.hasobject:
        return as_strings(list(tensor.string_val)).reshape(shape)
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
    values = np.array(getattr(tensor, _field(dtype)), dtype)
    # One value stands for all where they are equal.
    return np.full(shape, values[0]) if values.size == 1 else values.reshape(shape)


def _field(dtype: np.dtype) -> str:
    return "int64_val" if dtype == np.int64 else "int_val" if dtype == np.int32 else _VALUE_FIELDS[dtype.kind]


def predict_request(
    signature: str,
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str] = (),
    model: str = MODEL_NAME,
    version: int | None = None,
    label: str = "",
) -> pb.PredictRequest:
    """A PredictRequest; `outputs` names those wanted, all if it is empty."""
    spec = pb.ModelSpec(name=model, signature_name=signature, version_label=label)
    if version is not None:
        spec.version.value = version
    tensors = {name: to_tensor(array) for name, array in inputs.items()}
    return pb.PredictRequest(model_spec=spec, inputs=tensors, output_filter=outputs)


def read_warmup(model_directory: Path) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Signature and inputs of each warm-up request of a SavedModel.

    Raises:
      ValueError: not a file of PredictionLog records.
    """
    path = model_directory / features.ASSETS_EXTRA / features.EXPORTED_WARMUP
    for record in tfrecords(path.read_bytes(), "the warm-up file"):
        request = pb.PredictionLog.FromString(record).predict_log.request
        yield request.model_spec.signature_name, {name: from_tensor(t) for name, t in request.inputs.items()}


def tfrecords(content: bytes, name: str) -> Iterator[bytes]:
    """TFRecord: length, its checksum, the record, its checksum; checksums are left to others.

    Raises:
      ValueError: it breaks off; `name` is what the message calls it.
    """
    position = 0
    while position < len(content):
        if position + 12 > len(content):
            raise ValueError(f"{name} is truncated")
        (length,) = struct.unpack_from("<Q", content, position)
        record = content[position + 12 : position + 12 + length]
        if len(record) < length:
            raise ValueError(f"{name} is truncated")
        yield record
        position += length + 16
