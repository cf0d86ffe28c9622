"""The layers and arrays of a Keras file, read as data: JSON and HDF5. Nothing in the file is ever run.

Keras' own loader runs code that a file brings: its `safe_mode` was passed by in HDF5 files and got around in `.keras`
archives (CVE-2025-9905, CVE-2025-1550, CVE-2025-8747). This reader builds no object that a file names. It reads what
Keras 2 and 3 write: `.h5`, whole models and weights alone, and `.keras`.
"""

import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import h5py
import numpy as np
from numpy.typing import NDArray

from flexunet.core.errors import UserError, last_line
from flexunet.core.files import JsonObject

# An architecture of a hundred layers is a hundred kilobytes.
_LONGEST_CONFIG: Final = 10_000_000
_ARCHIVED_CONFIG: Final = "config.json"
_ARCHIVED_WEIGHTS: Final = "model.weights.h5"
# Keras 3's and Keras 2's name of the same thing.
_ARCHIVED_LAYERS: Final = ("layers", "_layer_checkpoint_dependencies")
# Layers that have weights, and what an archive calls them.
_ARCHIVED_KINDS: Final = {
    "Conv2D": "conv2d",
    "Conv2DTranspose": "conv2d_transpose",
    "BatchNormalization": "batch_normalization",
    "GroupNormalization": "group_normalization",
}
# What h5py, zipfile and json raise of a file that is not what they expect.
_DAMAGE: Final = (
    *(OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)
_EXPECTED: Final = "expected a model that Keras saved as .h5 or .keras"


@dataclass(frozen=True)
class Layer:
    """A layer as the file describes it.

    Attributes:
      name: its own in the file.
      kind: Keras' name of its class; "" where the file holds weights alone.
      settings: Keras' `get_config`.
      inputs: names of the layers that it reads.
      is_own: the class is not one of Keras' own.
    """

    name: str
    kind: str = ""
    settings: JsonObject = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    is_own: bool = False


class KerasFile:
    """A file while it is open.

    Attributes:
      layers: in the order of Keras' `model.layers`.
      keras: version of Keras that wrote it; "" if it does not tell.
    """

    def __init__(self, path: Path, layers: Sequence[Layer], arrays: dict[str, list[h5py.Dataset]], keras: str) -> None:
        self.path, self.layers, self.keras = path, layers, keras
        self._arrays = arrays

    def shapes(self, layer: str) -> list[tuple[int, ...]]:
        """Of the arrays of a layer, in the order of Keras' `layer.weights`."""
        return [tuple(dataset.shape) for dataset in self._arrays.get(layer, ())]

    def arrays(self, layer: str) -> list[NDArray[np.float32]]:
        """The arrays of a layer; to be called when their shapes are known to be right."""
        with readable(self.path):
            return [np.asarray(dataset[()], np.float32) for dataset in self._arrays.get(layer, ())]


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What h5py, zipfile and json say of a damaged file, in our words."""
    try:
        yield
    except _DAMAGE as error:
        raise UserError(f"{path}: cannot be read ({last_line(error)}), {_EXPECTED}") from None


@contextmanager
def open_keras_file(path: Path) -> Iterator[KerasFile]:
    """Reads the architecture; arrays are read when they are asked for.

    Raises:
      UserError: not such a file, or a damaged one.
    """
    with ExitStack() as stack:
        with readable(path):
            file = (_read_archive if zipfile.is_zipfile(path) else _read_hdf5)(path, stack)
        yield file


def layers_of(config: JsonObject) -> list[Layer]:
    """The layers of a functional model's configuration, that of its JSON or of a file."""
    entries = cast("dict[str, Any]", config["config"])["layers"]
    return [
        Layer(entry["config"]["name"], entry["class_name"], entry["config"], tuple(_inputs(entry)), _is_own(entry))
        for entry in entries
    ]


def _read_hdf5(path: Path, stack: ExitStack) -> KerasFile:
    file = stack.enter_context(h5py.File(path, "r"))
    whole = "model_config" in file.attrs
    if not whole and "layer_names" not in file.attrs:
        raise ValueError("neither model_config nor layer_names in it")
    group = _group(file, "model_weights") if whole else file
    if whole:
        layers = layers_of(_parsed(file.attrs["model_config"]))
    else:
        layers = [Layer(name) for name in _names_in(file, "layer_names")]
    arrays = {}
    for layer in layers:
        within = _group(group, layer.name)
        arrays[layer.name] = [_dataset(within, name) for name in _names_in(within, "weight_names")]
    return KerasFile(path, layers, arrays, _text(file.attrs.get("keras_version", "")))


def _read_archive(path: Path, stack: ExitStack) -> KerasFile:
    archive = stack.enter_context(zipfile.ZipFile(path))
    config = _parsed(_member(archive, _ARCHIVED_CONFIG))
    keras = json.loads(_member(archive, "metadata.json")).get("keras_version", "")
    weights = stack.enter_context(archive.open(_ARCHIVED_WEIGHTS))
    file = stack.enter_context(h5py.File(weights, "r"))
    groups = _group(file, next((name for name in _ARCHIVED_LAYERS if name in file), _ARCHIVED_LAYERS[0]))
    layers, seen, arrays = layers_of(config), Counter[str](), {}
    for layer in layers:
        kind = _ARCHIVED_KINDS.get(layer.kind)
        if kind:
            # Numbered by kind, whatever a layer is called.
            variables = _group(groups, f"{kind}_{seen[kind]}/vars" if seen[kind] else f"{kind}/vars")
            arrays[layer.name] = [_dataset(variables, str(index)) for index in range(len(variables))]
            seen[kind] += 1
    return KerasFile(path, layers, arrays, str(keras))


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _LONGEST_CONFIG:
        raise ValueError(f"{name} has more than {_LONGEST_CONFIG:,} bytes")
    return archive.read(name)


def _parsed(text: Any) -> JsonObject:
    if len(text) > _LONGEST_CONFIG:
        raise ValueError(f"an architecture of more than {_LONGEST_CONFIG:,} bytes")
    return json.loads(text)


def _group(parent: h5py.Group, name: str) -> h5py.Group:
    group = _linked(parent, name)
    if not isinstance(group, h5py.Group):
        raise ValueError(f"{name} is no group")
    return group


def _names_in(parent: h5py.Group, attribute: str) -> list[str]:
    names = parent.attrs[attribute]
    return [_text(name) for name in cast("Sequence[Any]", names)]


def _dataset(parent: h5py.Group, name: str) -> h5py.Dataset:
    """An array that is in this very file: HDF5 can point at others."""
    dataset = _linked(parent, name)
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual or dataset.dtype.kind != "f":
        raise ValueError(f"{name} is no array of numbers in this file")
    return dataset


def _linked(parent: h5py.Group, name: str) -> Any:
    found: Any = parent
    for part in name.split("/"):
        if not isinstance(found.get(part, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} is missing, or a link")
        found = found[part]
    return found


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _is_own(entry: JsonObject) -> bool:
    module, registered = str(entry.get("module") or "keras"), str(entry.get("registered_name") or "")
    return ">" in registered or module.partition(".")[0] not in ("keras", "tf_keras", "tensorflow")


def _inputs(entry: JsonObject) -> Iterator[str]:
    """Names of the layers before this one: Keras 2 nests `[name, 0, 0, {}]`, Keras 3 describes tensors."""
    nodes = cast("list[Any]", entry.get("inbound_nodes") or [])
    if len(nodes) > 1:
        raise ValueError(f"{entry['name']} is used {len(nodes)} times")
    yield from _names(nodes)


def _names(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        history = node.get("config", {}).get("keras_history") if node.get("class_name") == "__keras_tensor__" else None
        if history:
            yield history[0]
        else:
            for value in node.values():
                yield from _names(value)
    elif isinstance(node, list):
        if len(node) >= 3 and isinstance(node[0], str) and node[1:3] == [0, 0]:
            yield node[0]
        else:
            for value in node:
                yield from _names(value)
