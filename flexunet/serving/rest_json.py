"""JSON of TF Serving's REST interface, by the rules of its `json_tensor.cc`: requests to arrays, answers to JSON."""

import base64
import binascii
import functools
import json
from collections.abc import Callable, Mapping
from typing import TypeGuard, TypeVar

import numpy as np

from flexunet.core.files import Json
from flexunet.serving.c_api import Signature
from flexunet.serving.dtypes import DTYPE_NAMES, DTYPE_NUMBERS
from flexunet.serving.protos import predict_pb2 as pb
from flexunet.serving.wire import as_strings

_SHOWN = 256

_Leaf = TypeVar("_Leaf")


def parse(body: bytes) -> tuple[str, dict[str, Json]]:
    """The name of the signature, "" where none is given, and the whole request.

    Raises:
      ValueError: no JSON, or no object.
    """
    if not body:
        raise ValueError("JSON Parse error: The document is empty")
    try:
        found = json.loads(body)
    except ValueError as error:
        raise ValueError(f"JSON Parse error: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"JSON Value: {_shown(found)} Is not object")
    name = found.get("signature_name", "")
    if not isinstance(name, str):
        raise ValueError(
            f"JSON Value: {_shown(found)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name, found


def read_inputs(body: dict[str, Json], signature: Signature) -> tuple[dict[str, np.ndarray], bool]:
    """The arrays of a request, and whether it came in rows (`instances`) and not in columns (`inputs`).

    Raises:
      ValueError: neither or both, other inputs than the signature's, or values that do not fit.
    """
    if "instances" in body and "inputs" in body:
        raise ValueError(
            f"JSON Value: {_shown(body)} Not formatted correctly expecting only one of 'inputs' or 'instances' keys "
            "to exist "
        )
    if "instances" in body:
        rows = body["instances"]
        if not isinstance(rows, list):
            raise ValueError(f"JSON Value: {_shown(body)} Expecting 'instances' to be an list/array")
        if not rows:
            raise ValueError(f"JSON Value: {_shown(body)} No values in 'instances' array")
        return _from_rows(rows, signature), True
    if "inputs" in body:
        return _from_columns(body["inputs"], signature), False
    raise ValueError("Missing 'inputs' or 'instances' key")


def write_outputs(outputs: Mapping[str, np.ndarray], rows: bool) -> dict[str, Json]:
    """`{"predictions": rows}` or `{"outputs": columns}`; the name of a signature's only output is left out."""
    spelled = {name: _spell(name, array) for name, array in outputs.items()}
    only = next(iter(spelled.values())) if len(spelled) == 1 else None
    if not rows:
        return {"outputs": spelled if only is None else only}
    if only is not None:
        return {"predictions": only}
    return {"predictions": [dict(zip(spelled, row, strict=True)) for row in zip(*spelled.values(), strict=True)]}


def metadata(name: str, version: int, signatures: pb.SignatureDefMap) -> dict[str, Json]:
    """The answer of `GET /v1/models/NAME/metadata`."""
    found: dict[str, Json] = {
        key: {
            "inputs": {n: _tensor_info(info) for n, info in signature.inputs.items()},
            "outputs": {n: _tensor_info(info) for n, info in signature.outputs.items()},
            "method_name": signature.method_name,
            "defaults": {},
        }
        for key, signature in signatures.signature_def.items()
    }
    spec: dict[str, Json] = {"name": name, "signature_name": "", "version": str(version)}
    return {"model_spec": spec, "metadata": {"signature_def": {"signature_def": found}}}


def _tensor_info(info: pb.TensorInfo) -> Json:
    dimensions: list[Json] = [{"size": str(dim.size), "name": dim.name} for dim in info.tensor_shape.dim]
    shape: Json = {"dim": dimensions, "unknown_rank": info.tensor_shape.unknown_rank}
    return {"dtype": DTYPE_NAMES.get(info.dtype, str(info.dtype)), "tensor_shape": shape, "name": info.name}


def _from_rows(rows: list[Json], signature: Signature) -> dict[str, np.ndarray]:
    """Item by item: all must have the shape of the first (`FillTensorMapFromInstancesList`)."""
    if not isinstance(rows[0], dict) and len(signature.inputs) > 1:
        raise ValueError(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    named, names = _is_object(rows[0]), sorted(signature.inputs)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for number, row in enumerate(rows):
        if _is_object(row) != named:
            words = "object but got list" if named else "value/list but got object"
            raise ValueError(f"Expecting {words} at item {number} of input list")
        for name, item in (row if _is_object(row) else {names[0]: row}).items():
            try:
                _add_item(columns, name, item, signature)
            except ValueError as error:
                at = f"element: {number} key: {name}" if named else f"element: {number}"
                raise ValueError(
                    f"Failed to process {at} of 'instances' list. Error: INVALID_ARGUMENT: {error}"
                ) from None
        if _is_object(row) and sorted(row) != names:
            raise ValueError(
                f"Failed to process element: {number} of 'instances' list. JSON object: {_shown(row)} "
                f"keys must be equal to: {','.join(names)}"
            )
    return {name: np.stack(column) for name, column in columns.items()}


def _add_item(columns: dict[str, list[np.ndarray]], name: str, item: Json, signature: Signature) -> None:
    if name not in columns:
        raise ValueError(f"JSON object: does not have named input: {name}")
    array = _array(item, signature.inputs[name].dtype)
    first = columns[name][0] if columns[name] else array
    if array.size != first.size:
        raise ValueError(f"Expecting tensor size: {first.size} but got: {array.size}")
    if array.shape != first.shape:
        shapes = ["[" + ",".join(map(str, one.shape)) + "]" for one in (first, array)]
        raise ValueError(f"Expecting shape {shapes[0]} but got: {shapes[1]}")
    columns[name].append(array)


def _from_columns(columns: Json, signature: Signature) -> dict[str, np.ndarray]:
    if not _is_object(columns) and len(signature.inputs) > 1:
        raise ValueError(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map"
        )
    named = columns if _is_object(columns) else dict.fromkeys(signature.inputs, columns)
    if missing := sorted(signature.inputs.keys() - named.keys()):
        raise ValueError(f"Missing named input: {missing[0]} in 'inputs' object.")
    return {name: _array(named[name], info.dtype) for name, info in signature.inputs.items()}


def _array(values: Json, dtype: np.dtype) -> np.ndarray:
    """A dense tensor, whose shape is that of the first items all the way down; a value that is no list is a scalar."""
    shape: list[int] = []
    first = values
    while isinstance(first, list):
        shape.append(len(first))
        if not first:
            break
        first = first[0]
    if dtype.hasobject:
        return as_strings(_leaves(values, shape, 0, _string)).reshape(shape)
    return np.array(_leaves(values, shape, 0, functools.partial(_number, dtype=dtype)), dtype).reshape(shape)


def _leaves(values: Json, shape: list[int], level: int, read: Callable[[Json], _Leaf]) -> list[_Leaf]:
    if not isinstance(values, list):
        if level != len(shape):
            raise ValueError(
                f"JSON Value: {_shown(values)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        return [read(values)]
    if level >= len(shape):
        raise ValueError(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(values) != shape[level]:
        raise ValueError(
            f"Encountered list at unexpected size: {len(values)} at level: {level} expected size: {shape[level]}"
        )
    return [leaf for value in values for leaf in _leaves(value, shape, level + 1, read)]


def _string(value: Json) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict):
        return _from_base64(value)
    raise _mismatch(value, np.dtype(object))


def _number(value: Json, dtype: np.dtype) -> float | bool:
    if dtype.kind == "b" and isinstance(value, bool):
        return value
    if dtype.kind in "iu" and isinstance(value, int) and not isinstance(value, bool):
        # As a cast of C: 300 is 44 as uint8.
        return value % 256 if dtype == np.uint8 else value
    if dtype.kind == "f" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    raise _mismatch(value, dtype)


def _mismatch(value: Json, dtype: np.dtype) -> ValueError:
    name = DTYPE_NAMES[DTYPE_NUMBERS[dtype]].removeprefix("DT_").lower()
    return ValueError(f"JSON Value: {_shown(value)} Type: {_json_type(value)} is not of expected type: {name}")


def _from_base64(value: dict[str, Json]) -> bytes:
    encoded = value.get("b64")
    if set(value) != {"b64"} or not isinstance(encoded, str):
        raise ValueError(f"JSON Value: {_shown(value)} not formatted correctly for base64 data")
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise ValueError("Unable to base64 decode") from None


def _is_object(value: Json) -> TypeGuard[dict[str, Json]]:
    return isinstance(value, dict) and not (set(value) == {"b64"} and isinstance(value["b64"], str))


def _shown(value: Json) -> str:
    return json.dumps(value)[:_SHOWN]


def _json_type(value: Json) -> str:
    kinds = {bool: str(value), dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}
    return kinds.get(type(value), "Null")


def _spell(name: str, array: np.ndarray) -> Json:
    """Strings are base64 only where the output's name ends in `_bytes`."""
    if not array.dtype.hasobject:
        return array.tolist()
    if name.endswith("_bytes"):
        return _each(array, lambda item: {"b64": base64.b64encode(item).decode()})
    return _each(array, _text)


def _text(item: bytes) -> str:
    """TF Serving writes bytes as they are: bytes that are no UTF-8 make JSON that no parser takes. Here one character
    stands for each of them."""
    try:
        return item.decode()
    except UnicodeDecodeError:
        return item.decode("latin-1")


def _each(array: np.ndarray, function: Callable[[bytes], Json]) -> Json:
    flat = np.empty(array.shape, object)
    for index, item in np.ndenumerate(array):
        flat[index] = function(item)
    return flat.tolist()
