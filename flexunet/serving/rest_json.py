"""JSON of TF Serving's REST interface, by the rules of its `json_tensor.cc`: requests to arrays, answers to JSON."""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from flexunet.serving.c_api import Signature
from flexunet.serving.dtypes import DTYPE_NUMBERS
from flexunet.serving.protos import predict_pb2 as pb
from flexunet.serving.wire import as_strings

_NAMES = {1: "DT_FLOAT", 2: "DT_DOUBLE", 3: "DT_INT32", 4: "DT_UINT8", 7: "DT_STRING", 9: "DT_INT64", 10: "DT_BOOL"}
_SHOWN = 256


def parse(body: bytes) -> dict[str, Any]:
    """Raises ValueError: no JSON, or no object."""
    if not body:
        raise ValueError("JSON Parse error: The document is empty")
    try:
        found = json.loads(body)
    except ValueError as error:
        raise ValueError(f"JSON Parse error: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"JSON Value: {_shown(found)} Is not object")
    if not isinstance(found.get("signature_name", ""), str):
        raise ValueError(
            f"JSON Value: {_shown(found)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return found


def read_inputs(body: Mapping[str, Any], signature: Signature) -> tuple[dict[str, np.ndarray], bool]:
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
        return _from_rows(body["instances"], signature), True
    if "inputs" in body:
        return _from_columns(body["inputs"], signature), False
    raise ValueError("Missing 'inputs' or 'instances' key")


def write_outputs(outputs: Mapping[str, np.ndarray], rows: bool) -> dict[str, Any]:
    """`{"predictions": rows}` or `{"outputs": columns}`; the name of a signature's only output is left out."""
    spelled = {name: _spell(name, array) for name, array in outputs.items()}
    only = next(iter(spelled.values())) if len(spelled) == 1 else None
    if not rows:
        return {"outputs": spelled if only is None else only}
    if only is not None:
        return {"predictions": only}
    return {"predictions": [dict(zip(spelled, row, strict=True)) for row in zip(*spelled.values(), strict=True)]}


def metadata(name: str, version: int, signatures: pb.SignatureDefMap) -> dict[str, Any]:
    """The answer of `GET /v1/models/NAME/metadata`."""
    found = {
        key: {
            "inputs": {n: _tensor_info(info) for n, info in signature.inputs.items()},
            "outputs": {n: _tensor_info(info) for n, info in signature.outputs.items()},
            "method_name": signature.method_name,
            "defaults": {},
        }
        for key, signature in signatures.signature_def.items()
    }
    spec = {"name": name, "signature_name": "", "version": str(version)}
    return {"model_spec": spec, "metadata": {"signature_def": {"signature_def": found}}}


def _tensor_info(info: pb.TensorInfo) -> dict[str, Any]:
    dimensions = [{"size": str(dim.size), "name": dim.name} for dim in info.tensor_shape.dim]
    shape = {"dim": dimensions, "unknown_rank": info.tensor_shape.unknown_rank}
    return {"dtype": _NAMES.get(info.dtype, str(info.dtype)), "tensor_shape": shape, "name": info.name}


def _from_rows(rows: Any, signature: Signature) -> dict[str, np.ndarray]:
    if not isinstance(rows, list):
        raise ValueError("Expecting 'instances' to be an list/array")
    if not rows:
        raise ValueError("No values in 'instances' array")
    if not isinstance(rows[0], dict) and len(signature.inputs) > 1:
        raise ValueError(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    named, names = _is_object(rows[0]), sorted(signature.inputs)
    for number, row in enumerate(rows):
        if _is_object(row) != named:
            words = "object but got list" if named else "value/list but got object"
            raise ValueError(f"Expecting {words} at item {number} of input list")
        if named and sorted(row) != names:
            raise ValueError(
                f"Failed to process element: {number} of 'instances' list. JSON object: {_shown(row)} "
                f"keys must be equal to: {','.join(names)}"
            )
    columns = {name: [row[name] for row in rows] for name in names} if named else {names[0]: rows}
    return {name: _array(values, signature.inputs[name].dtype) for name, values in columns.items()}


def _from_columns(columns: Any, signature: Signature) -> dict[str, np.ndarray]:
    if not _is_object(columns):
        if len(signature.inputs) > 1:
            raise ValueError(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        columns = dict.fromkeys(signature.inputs, columns)
    if missing := sorted(signature.inputs.keys() - columns.keys()):
        raise ValueError(f"Missing named input: {missing[0]} in 'inputs' object.")
    return {name: _array(columns[name], info.dtype) for name, info in signature.inputs.items()}


def _array(values: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """A dense tensor, whose shape is that of the first items all the way down; a value that is no list is a scalar."""
    shape: list[int] = []
    first = values
    while isinstance(first, list):
        shape.append(len(first))
        if not first:
            break
        first = first[0]
    flat = _leaves(values, shape, 0, dtype)
    return (as_strings(flat) if dtype.hasobject else np.array(flat, dtype)).reshape(shape)


def _leaves(values: Any, shape: list[int], level: int, dtype: np.dtype[Any]) -> list[Any]:
    if not isinstance(values, list):
        if level != len(shape):
            raise ValueError(
                f"JSON Value: {_shown(values)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        return [_value(values, dtype)]
    if level >= len(shape):
        raise ValueError(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(values) != shape[level]:
        raise ValueError(
            f"Encountered list at unexpected size: {len(values)} at level: {level} expected size: {shape[level]}"
        )
    return [leaf for value in values for leaf in _leaves(value, shape, level + 1, dtype)]


def _value(value: Any, dtype: np.dtype[Any]) -> Any:
    if dtype.hasobject and isinstance(value, str):
        return value.encode()
    if dtype.hasobject and isinstance(value, dict):
        return _from_base64(value)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = {
        "f": is_number,
        "b": isinstance(value, bool),
        "i": is_number and isinstance(value, int),
        "u": is_number and isinstance(value, int),
    }
    if not fits.get(dtype.kind, False):
        name = _NAMES[DTYPE_NUMBERS[dtype]].removeprefix("DT_").lower()
        raise ValueError(f"JSON Value: {_shown(value)} Type: {_json_type(value)} is not of expected type: {name}")
    # As a cast of C: 300 is 44 as uint8.
    return value if dtype.kind in "fb" else value % 256 if dtype == np.uint8 else value


def _from_base64(value: dict[str, Any]) -> bytes:
    if set(value) != {"b64"} or not isinstance(value["b64"], str):
        raise ValueError(f"JSON Value: {_shown(value)} not formatted correctly for base64 data")
    try:
        return base64.b64decode(value["b64"], validate=True)
    except binascii.Error:
        raise ValueError("Unable to base64 decode") from None


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not (set(value) == {"b64"} and isinstance(value["b64"], str))


def _shown(value: Any) -> str:
    return json.dumps(value)[:_SHOWN]


def _json_type(value: Any) -> str:
    kinds = {bool: str(value), dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}
    return kinds.get(type(value), "Null")


def _spell(name: str, array: np.ndarray) -> Any:
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


def _each(array: np.ndarray, function: Any) -> Any:
    flat = np.empty(array.shape, object)
    for index in np.ndindex(*array.shape):
        flat[index] = function(array[index])
    return flat.tolist()
