"""Load a SavedModel and run a signature through TensorFlow's C API, without the tensorflow Python package.

TF Serving loads an export with the C++ session loader that `TF_LoadSessionFromSavedModel` wraps. The Python loader
`tf.saved_model.load` is more lenient: it accepts exports whose variables that session cannot find. Running an export
here, in an interpreter which never imports tensorflow, answers whether TF Serving could run it.

    python -m flexunet.serving.c_api MODEL_DIR SIGNATURE INPUTS.npz OUTPUTS.npz
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import importlib.util
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flexunet.core.install import how_to_install
from flexunet.serving.dtypes import DTYPE_NUMBERS, DTYPES
from flexunet.serving.protos import predict_pb2 as pb

_LIBRARY_NAME = "libtensorflow_cc.so.2"
_STRING_STRUCT_BYTES = 24  # sizeof(TF_TString)


class _Output(ctypes.Structure):
    """TF_Output: one output of one operation."""

    _fields_ = [("operation", c_void_p), ("index", c_int)]


class _Buffer(ctypes.Structure):
    """TF_Buffer: bytes owned by TensorFlow."""

    _fields_ = [("data", c_void_p), ("length", c_size_t), ("deallocator", c_void_p)]


# Result and arguments of every C function used. Handles are c_void_p: ctypes would cut c_char_p results at a NUL byte.
_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "TF_NewStatus": (c_void_p, []),
    "TF_GetCode": (c_int, [c_void_p]),
    "TF_Message": (c_char_p, [c_void_p]),
    "TF_DeleteStatus": (None, [c_void_p]),
    "TF_NewBuffer": (POINTER(_Buffer), []),
    "TF_NewBufferFromString": (c_void_p, [c_char_p, c_size_t]),
    "TF_DeleteBuffer": (None, [c_void_p]),
    "TF_NewGraph": (c_void_p, []),
    "TF_DeleteGraph": (None, [c_void_p]),
    "TF_GraphOperationByName": (c_void_p, [c_void_p, c_char_p]),
    "TF_NewSessionOptions": (c_void_p, []),
    "TF_DeleteSessionOptions": (None, [c_void_p]),
    "TF_LoadSessionFromSavedModel": (
        c_void_p,
        [c_void_p, c_void_p, c_char_p, POINTER(c_char_p), c_int, c_void_p, POINTER(_Buffer), c_void_p],
    ),
    "TF_CloseSession": (None, [c_void_p, c_void_p]),
    "TF_DeleteSession": (None, [c_void_p, c_void_p]),
    "TF_SessionRun": (
        None,
        [
            *[c_void_p, c_void_p],  # session, run options
            *[POINTER(_Output), POINTER(c_void_p), c_int],  # inputs
            *[POINTER(_Output), POINTER(c_void_p), c_int],  # outputs
            *[c_void_p, c_int, c_void_p, c_void_p],  # target operations, run metadata, status
        ],
    ),
    "TF_AllocateTensor": (c_void_p, [c_int, POINTER(c_int64), c_int, c_size_t]),
    "TF_DeleteTensor": (None, [c_void_p]),
    "TF_TensorType": (c_int, [c_void_p]),
    "TF_NumDims": (c_int, [c_void_p]),
    "TF_Dim": (c_int64, [c_void_p, c_int]),
    "TF_TensorData": (c_void_p, [c_void_p]),
    "TF_StringInit": (None, [c_void_p]),
    "TF_StringCopy": (None, [c_void_p, c_char_p, c_size_t]),
    "TF_StringGetDataPointer": (c_void_p, [c_void_p]),
    "TF_StringGetSize": (c_size_t, [c_void_p]),
}


_INVALID_ARGUMENT = 3
# To which gRPC cuts a deadline in milliseconds.
_LONGEST_MILLISECONDS = 2**31 - 1


class SavedModelError(RuntimeError):
    """An export that cannot be loaded or run, or a request that does not fit its signature.

    Attributes:
        code: TensorFlow's code, which is gRPC's too: 3 INVALID_ARGUMENT, 4 DEADLINE_EXCEEDED, 14 UNAVAILABLE of a full
            queue.
    """

    def __init__(self, message: str, code: int = _INVALID_ARGUMENT) -> None:
        super().__init__(message)
        self.code = code


class TensorInfo(NamedTuple):
    """One input or output of a signature: the graph's name for it, and its numpy dtype (object for strings)."""

    tensor_name: str
    dtype: np.dtype


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of one signature, by the names that clients use."""

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]


class SavedModel:
    """A SavedModel in the session that TF Serving would give it; a context manager that frees it on leaving.

    Args:
        directory: folder that holds `saved_model.pb`.
        library_directory: folder of `libtensorflow_cc.so.2`; by default that of the installed tensorflow package, which
            is found without being imported.
        tags: tags of the MetaGraph to load.

    Attributes:
        signatures: the export's signatures by name.

    Raises:
        SavedModelError: no TensorFlow library, no such export, or an export that the session loader refuses.
    """

    signatures: dict[str, Signature]

    def __init__(
        self, directory: Path, library_directory: Path | None = None, tags: Sequence[str] = ("serve",)
    ) -> None:
        self._directory = directory
        self._library = _load_library(library_directory or _find_library_directory())
        with contextlib.ExitStack() as stack:
            self._graph: int = self._library.TF_NewGraph()
            stack.callback(self._library.TF_DeleteGraph, self._graph)
            self._session, meta_graph = _load_session(self._library, directory, tags, self._graph)
            stack.callback(_delete_session, self._library, self._session)
            self.signatures = _read_signatures(meta_graph)
            self._resources = stack.pop_all()
        self._closed = False

    def __enter__(self) -> SavedModel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the session and its graph. Closing twice does nothing."""
        self._closed = True
        self._resources.close()

    def run(
        self, signature: str, inputs: Mapping[str, np.ndarray], seconds: float | None = None
    ) -> dict[str, np.ndarray]:
        """Run one signature.

        Args:
            signature: a key of `signatures`.
            inputs: one array per input of the signature, of exactly its dtype; strings are object arrays of bytes.
                Shapes are not checked, as the session does not: a wrong rank can abort the whole process inside a
                kernel (measured: a convolution). An export protects itself with `tf.ensure_shape`.
            seconds: after which the run is cancelled, as TF Serving cancels it at its caller's deadline: with it a
                batch in which it came last, which costs other callers their answers; None: never.

        Returns:
            One array per output of the signature, of its dtype; strings are object arrays of bytes.

        Raises:
            SavedModelError: closed model, unknown signature, missing or unknown input, wrong dtype, or whatever the
                graph raises; a graph that cannot find its variables says so here, at the first request, not on loading.
        """
        if self._closed:
            raise SavedModelError(f"cannot run {signature!r}: the SavedModel {self._directory} is closed")
        chosen = _choose(self.signatures, signature, self._directory)
        _check_inputs(signature, chosen, inputs)
        with contextlib.ExitStack() as stack:
            feeds = []
            for name in chosen.inputs:
                feeds.append(_new_tensor(self._library, inputs[name]))
                stack.callback(self._library.TF_DeleteTensor, feeds[-1])
            options = None if seconds is None else _run_options(self._library, seconds)
            if options is not None:
                stack.callback(self._library.TF_DeleteBuffer, options)
            fetches = self._run_session(signature, chosen, feeds, options)
            for tensor in fetches:
                stack.callback(self._library.TF_DeleteTensor, tensor)
            arrays = [_read_tensor(self._library, tensor) for tensor in fetches]
            return dict(zip(chosen.outputs, arrays, strict=True))

    def _run_session(self, name: str, signature: Signature, feeds: list[int], options: int | None) -> list[int]:
        """Give the handles of the output tensors, which the caller deletes."""
        fetches = (c_void_p * len(signature.outputs))()
        with _checked(self._library, f"signature {name!r} of {self._directory}") as status:
            self._library.TF_SessionRun(
                *[self._session, options],
                *[self._graph_outputs(signature.inputs), (c_void_p * len(feeds))(*feeds), len(feeds)],
                *[self._graph_outputs(signature.outputs), fetches, len(fetches)],
                *[None, 0, None, status],
            )
        return [handle for handle in fetches if handle is not None]

    def _graph_outputs(self, tensors: Mapping[str, TensorInfo]) -> ctypes.Array[_Output]:
        outputs = (_Output * len(tensors))()
        for output, info in zip(outputs, tensors.values(), strict=True):
            operation, _, index = info.tensor_name.partition(":")
            output.operation = self._library.TF_GraphOperationByName(self._graph, operation.encode())
            output.index = int(index or 0)
            if output.operation is None:
                raise SavedModelError(f"{self._directory}: the graph has no operation {operation!r}")
        return outputs


# The library


def _find_library_directory() -> Path:
    """Folder of the tensorflow package; find_spec of a top-level package does not import it."""
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or spec.origin is None:
        raise SavedModelError(
            "tensorflow is not installed, expected it for a model in a folder, which runs in its library: "
            + how_to_install("tensorflow")
        )
    return Path(spec.origin).parent


@functools.cache
def _load_library(directory: Path) -> ctypes.CDLL:
    """Load TensorFlow once per process; its RUNPATH finds libtensorflow_framework.so.2 in the same folder."""
    path = directory / _LIBRARY_NAME
    if not path.is_file():
        raise SavedModelError(f"no {_LIBRARY_NAME} in {directory}: give the folder of a tensorflow 2 wheel")
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


@contextlib.contextmanager
def _checked(library: ctypes.CDLL, subject: str) -> Iterator[int]:
    """Lend a TF_Status; raise SavedModelError with its message if the body left an error in it."""
    status = library.TF_NewStatus()
    try:
        yield status
        if code := library.TF_GetCode(status):
            raise SavedModelError(f"{subject}: {library.TF_Message(status).decode(errors='replace')}", code)
    finally:
        library.TF_DeleteStatus(status)


def _load_session(library: ctypes.CDLL, directory: Path, tags: Sequence[str], graph: int) -> tuple[int, bytes]:
    """Load the export into `graph`; give the session's handle and the serialized MetaGraphDef."""
    with contextlib.ExitStack() as stack:
        options = library.TF_NewSessionOptions()
        stack.callback(library.TF_DeleteSessionOptions, options)
        buffer = library.TF_NewBuffer()
        stack.callback(library.TF_DeleteBuffer, buffer)
        tag_array = (c_char_p * len(tags))(*[tag.encode() for tag in tags])
        with _checked(library, f"cannot load {directory} with tags {list(tags)}") as status:
            session = library.TF_LoadSessionFromSavedModel(
                options, None, os.fsencode(directory), tag_array, len(tags), graph, buffer, status
            )
        return session, ctypes.string_at(buffer.contents.data, buffer.contents.length)


def _delete_session(library: ctypes.CDLL, session: int) -> None:
    with _checked(library, "cannot close the session") as status:
        library.TF_CloseSession(session, status)
    with _checked(library, "cannot delete the session") as status:
        library.TF_DeleteSession(session, status)


# Signatures


def _read_signatures(meta_graph: bytes) -> dict[str, Signature]:
    """Decode the signatures of a serialized MetaGraphDef, without the loader's own (`__saved_model_init_op`)."""
    return {
        name: Signature(_read_tensor_infos(name, entry.inputs), _read_tensor_infos(name, entry.outputs))
        for name, entry in pb.MetaGraph.FromString(meta_graph).signature_def.items()
        if not name.startswith("__saved_model_")
    }


def _read_tensor_infos(signature: str, infos: Mapping[str, pb.TensorInfo]) -> dict[str, TensorInfo]:
    for name, info in infos.items():
        if info.dtype not in DTYPES:
            known = ", ".join(f"{number} {_label(dtype)}" for number, dtype in DTYPES.items())
            raise SavedModelError(
                f"signature {signature!r}: tensor {name!r} has DataType {info.dtype}, which is none of: {known}"
            )
    return {name: TensorInfo(infos[name].name, DTYPES[infos[name].dtype]) for name in sorted(infos)}


# Requests


def _choose(signatures: Mapping[str, Signature], name: str, directory: Path) -> Signature:
    if name not in signatures:
        choices = ", ".join(sorted(signatures)) or "none"
        raise SavedModelError(f"{directory} has no signature {name!r}; its signatures: {choices}")
    return signatures[name]


def _check_inputs(name: str, signature: Signature, inputs: Mapping[str, np.ndarray]) -> None:
    """Raise SavedModelError unless the names and dtypes of `inputs` are those of the signature."""
    wanted = ", ".join(f"{key} ({_label(info.dtype)})" for key, info in signature.inputs.items()) or "nothing"
    takes = f"signature {name!r} takes: {wanted}"
    if missing := sorted(signature.inputs.keys() - inputs.keys()):
        raise SavedModelError(f"missing input {', '.join(missing)}; {takes}")
    if unknown := sorted(inputs.keys() - signature.inputs.keys()):
        raise SavedModelError(f"unknown input {', '.join(unknown)}; {takes}")
    for key, info in signature.inputs.items():
        array = inputs[key]
        if array.dtype != info.dtype:
            raise SavedModelError(f"input {key} has numpy dtype {array.dtype}; {takes}")
        if array.dtype == object and not all(isinstance(item, bytes) for item in array.flat):
            raise SavedModelError(f"input {key} is an object array with items other than bytes; {takes}")


def _label(dtype: np.dtype) -> str:
    return "string: object array of bytes" if dtype.hasobject else dtype.name


def _run_options(library: ctypes.CDLL, seconds: float) -> int:
    """Give the handle of a buffer, for the caller to delete, of a tensorflow.RunOptions with nothing but a deadline."""
    # A caller without a deadline has one at the end of all days.
    milliseconds = max(1, round(min(1000 * seconds, _LONGEST_MILLISECONDS)))
    encoded = pb.RunOptions(timeout_in_ms=milliseconds).SerializeToString()
    return int(library.TF_NewBufferFromString(encoded, len(encoded)))


# Tensors


def _new_tensor(library: ctypes.CDLL, array: np.ndarray) -> int:
    """Copy an array into a TF_Tensor, for the caller to delete.

    TF_DeleteTensor also frees the characters of strings, unless an output still shares the buffer (tensorflow 2.21;
    measured: 53 MB of strings deleted, none left), so no TF_StringDealloc.
    """
    is_string = array.dtype == object
    size = array.size * (_STRING_STRUCT_BYTES if is_string else array.itemsize)
    dimensions = (c_int64 * array.ndim)(*array.shape)
    tensor = library.TF_AllocateTensor(DTYPE_NUMBERS[array.dtype], dimensions, array.ndim, size)
    data = library.TF_TensorData(tensor)
    if is_string:
        for index, item in enumerate(array.flat):
            library.TF_StringInit(data + index * _STRING_STRUCT_BYTES)
            library.TF_StringCopy(data + index * _STRING_STRUCT_BYTES, item, len(item))
    else:
        contiguous = np.asarray(array, order="C")  # ascontiguousarray would give a scalar one dimension
        ctypes.memmove(data, contiguous.ctypes.data, size)
    return tensor


def _read_tensor(library: ctypes.CDLL, tensor: int) -> np.ndarray:
    """Copy a TF_Tensor into an array that owns its memory."""
    array = np.empty(_shape(library, tensor), DTYPES[library.TF_TensorType(tensor)])
    data = library.TF_TensorData(tensor)
    if array.dtype == object:
        for index in range(array.size):
            struct = data + index * _STRING_STRUCT_BYTES
            array.flat[index] = ctypes.string_at(
                library.TF_StringGetDataPointer(struct), library.TF_StringGetSize(struct)
            )
    else:
        ctypes.memmove(array.ctypes.data, data, array.nbytes)
    return array


def _shape(library: ctypes.CDLL, tensor: int) -> tuple[int, ...]:
    return tuple(library.TF_Dim(tensor, axis) for axis in range(library.TF_NumDims(tensor)))


# Files


def pack(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Spell string arrays as numeric ones, so that an npz file holds them without pickle.

    Args:
        arrays: arrays of any shape; strings are object arrays of bytes.

    Returns:
        The numeric arrays as they are and, for a string array `name`, `name.bytes` (uint8, every string end to end) and
        `name.lengths` (int64, of the array's shape).

    Raises:
        ValueError: a name ends in `.bytes` or `.lengths`, or an item of an object array is not bytes.
    """
    packed: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if name.endswith((".bytes", ".lengths")):
            raise ValueError(f"array name {name!r} ends in .bytes or .lengths, which mark packed strings; rename it")
        if array.dtype != object:
            packed[name] = array
            continue
        if not all(isinstance(item, bytes) for item in array.flat):
            raise ValueError(f"object array {name!r} has items other than bytes")
        packed[f"{name}.bytes"] = np.frombuffer(b"".join(array.flat), np.uint8)
        packed[f"{name}.lengths"] = np.array([len(item) for item in array.flat], np.int64).reshape(array.shape)
    return packed


def unpack(packed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Undo `pack`.

    Args:
        packed: arrays as `pack` gives them.

    Returns:
        Arrays as `pack` takes them.

    Raises:
        ValueError: one of `name.bytes` and `name.lengths` is missing, or they disagree.
    """
    arrays = {name: array for name, array in packed.items() if not name.endswith((".bytes", ".lengths"))}
    for name in sorted({name.rpartition(".")[0] for name in packed.keys() - arrays.keys()}):
        try:
            characters, lengths = packed[f"{name}.bytes"].tobytes(), packed[f"{name}.lengths"]
        except KeyError as error:
            raise ValueError(f"strings {name!r} need both {name}.bytes and {name}.lengths") from error
        if lengths.sum() != len(characters) or (lengths < 0).any():
            raise ValueError(f"{name}.lengths do not add up to the {len(characters)} bytes of {name}.bytes")
        ends = np.cumsum(lengths, dtype=np.int64)
        arrays[name] = np.empty(lengths.shape, object)
        for index, (end, length) in enumerate(zip(ends, lengths.flat, strict=True)):
            arrays[name].flat[index] = characters[end - length : end]
    return arrays


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays, strings included, as an npz file without pickle.

    Not numpy.savez: its own parameters make arrays named `file` and `allow_pickle` impossible.
    """
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in pack(arrays).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read a file written by `save_arrays`. Raises ValueError for pickled arrays and incomplete strings."""
    with np.load(path, allow_pickle=False) as archive:
        return unpack(dict(archive.items()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one signature on the arrays of an npz file and write its outputs to another; exit 1 with a message."""
    parser = argparse.ArgumentParser(
        prog="python -m flexunet.serving.c_api", description="Run a signature as TF Serving would."
    )
    parser.add_argument("model_directory", type=Path, help="folder that holds saved_model.pb")
    parser.add_argument("signature")
    parser.add_argument("inputs", type=Path, help="npz file; strings as NAME.bytes (uint8) and NAME.lengths (int64)")
    parser.add_argument("outputs", type=Path, help="npz file to write, spelled likewise")
    options = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with SavedModel(options.model_directory) as model:
            save_arrays(options.outputs, model.run(options.signature, load_arrays(options.inputs)))
    except (SavedModelError, OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
