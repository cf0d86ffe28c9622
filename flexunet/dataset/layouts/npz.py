"""Masks as NumPy archives, `a.npz` for `a.png`: one-hot `[H, W, C]` or `[C, H, W]`, or class ids `[H, W]`."""

import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from flexunet.core.config.whole import Config
from flexunet.dataset.annotation import Annotation, BadAnnotation, Drawn
from flexunet.dataset.layouts.bounded import read_bytes
from flexunet.dataset.layouts.interface import Reader, Reading, Source
from flexunet.dataset.layouts.names import Affix, find_affixes, images_by_id, others_by_id, regrouped
from flexunet.dataset.layouts.pairing import annotated, pair_up

_KINDS = "biuf"
# What zipfile, zlib, lzma and NumPy raised on thousands of damaged archives, whose header is a Python expression.
_READ_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError, SyntaxError),
    *(ValueError, TypeError, LookupError, OSError, EOFError, NotImplementedError, RuntimeError, MemoryError),
)


@dataclass(frozen=True)
class OneHot(Annotation):
    """One archive; it is never unpickled."""

    path: Path

    def read(self) -> bytes:
        return read_bytes(self.path)

    def draw(self, content: bytes, size: tuple[int, int], config: Config) -> Drawn:
        return Drawn(_class_ids(_load(content, size, len(config.classes)), size, len(config.classes)))


def _load(content: bytes, size: tuple[int, int], classes: int) -> NDArray[np.generic]:
    """The only array of an archive, or the one named `mask`; its header is checked before it is unpacked."""
    with _reading():
        with zipfile.ZipFile(BytesIO(content)) as archive:
            member = _member([info.filename for info in archive.infolist()])
            with archive.open(member) as file:
                _check_header(file, size, classes)
        with np.load(BytesIO(content), allow_pickle=False) as arrays:
            return arrays[member.removesuffix(".npy")]


def count_classes(path: Path, size: tuple[int, int] | None) -> int:
    """How many classes an archive has, the background included; `size` is width and height of the image, if known.

    Raises:
      BadAnnotation: it is no archive of a mask.
    """
    try:
        with _reading(), zipfile.ZipFile(path) as archive, archive.open(_member(archive.namelist())) as file:
            shape, _ = _header(file)
        if len(shape) == 3:
            return next((count for count in shape if size and count not in size), min(shape))
        height, width = (*shape, 0, 0)[:2]
        return int(_load(read_bytes(path), size or (width, height), 1).max(initial=0)) + 1
    except BadAnnotation as bad:
        raise bad.within(f"{path}: ") from None


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except _READ_ERRORS as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadAnnotation(f"cannot be read ({reason})", "a NumPy archive of numbers", "save it anew") from None


def _member(names: list[str]) -> str:
    chosen = [name for name in names if name == "mask.npy"] or names
    if len(chosen) != 1:
        some = ", ".join(name.removesuffix(".npy") for name in names[:5]) or "nothing"
        raise BadAnnotation(f"holds {some}", "one array, or one named mask", "save the mask alone")
    return chosen[0]


def _check_header(file: IO[bytes], size: tuple[int, int], classes: int) -> None:
    shape, dtype = _header(file)
    width, height = size
    expected = [(height, width, classes), (classes, height, width), (height, width)]
    if shape not in expected or dtype.kind not in _KINDS:
        raise BadAnnotation(
            f"holds {dtype} {list(shape)}",
            f"numbers [{height}, {width}, {classes}], one-hot, or [{height}, {width}] of class ids",
            "as many layers as [[classes]], of the image's size",
        )


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def _class_ids(array: NDArray[np.generic], size: tuple[int, int], classes: int) -> NDArray[np.uint8]:
    if array.ndim == 2:
        if not np.isin(array, np.arange(classes)).all():
            raise BadAnnotation("holds other numbers than class ids", f"0 to {classes - 1}", "correct it")
        return array.astype(np.uint8)
    one_hot = array if array.shape == (size[1], size[0], classes) else np.moveaxis(array, 0, -1)
    is_one, is_zero = one_hot == 1, one_hot == 0
    if not (is_one | is_zero).all() or not (is_one.sum(axis=-1) == 1).all():
        raise BadAnnotation("is not one-hot", "one 1 and else 0 in each pixel", "one class for each pixel, as argmax")
    return is_one.argmax(axis=-1).astype(np.uint8)


def _signs(source: Source) -> str:
    images, archives = images_by_id(source), others_by_id(source, {".npz"})
    return f"{next(iter(archives.values()))[0]}" if archives and find_affixes(images, archives) else ""


def _read(source: Source) -> Reading:
    images, archives = images_by_id(source), others_by_id(source, {".npz"})
    of_image, of_mask = find_affixes(images, archives) or (Affix(), Affix())
    return pair_up(source, regrouped(images, of_image), regrouped(archives, of_mask), annotated(source, OneHot))


READER = Reader("npz", "one-hot masks as NumPy archives, a.npz for a.png", _signs, _read)
