"""`Totals` as one npz file of arrays and a JSON document, checked when it is read; nothing is unpickled.

Counts are float64, keys of groups uint64, and JSON keeps each float and integer of Python: nothing is rounded.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from components.measurement import Numbers, Ranked, SizeStep, SliceTotals, Sums, Totals
from flexunet.core.errors import UserError, last_line
from flexunet.core.files import replace_file

_DOCUMENT: Final = "document"
_GROUPS: Final = "groups"
_RESAMPLED: Final = "resampled"
_SIZES: Final = "sizes"


class _Part(BaseModel):
    """A slice beside its sums: `groups` is how many keys are its own."""

    model_config = ConfigDict(strict=True)

    images: NonNegativeInt
    groups: NonNegativeInt
    smallest: NonNegativeInt
    largest: NonNegativeInt


class _Document(BaseModel):
    """What is not an array; the rows of the arrays are the whole first, then `slices`, then `bins`."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    whole: _Part
    slices: list[tuple[tuple[str, str], _Part]]
    bins: list[tuple[int, _Part]]
    sizes: list[SizeStep]
    worst: list[Ranked]
    best: list[Ranked]
    sample: list[tuple[int, Ranked]]

    @property
    def parts(self) -> list[_Part]:
        """In the order of the rows."""
        return [self.whole, *(part for _, part in self.slices), *(part for _, part in self.bins)]


def write_totals(path: Path, totals: Totals) -> None:
    """Writes by one rename.

    Raises:
      ValueError: there was no image.
    """
    whole = SliceTotals(totals.known_sums, totals.images, totals.groups, 0, 0)
    rows = [whole, *totals.slices.values(), *totals.size_bins.values()]
    document = _Document(
        whole=_part(whole),
        slices=[(key, _part(part)) for key, part in totals.slices.items()],
        bins=[(key, _part(part)) for key, part in totals.size_bins.items()],
        sizes=list(totals.sizes),
        worst=totals.worst,
        best=totals.best,
        sample=totals.sample,
    )
    arrays = {name: np.stack([getattr(row.sums, name) for row in rows], dtype=np.float64) for name in Sums._fields}
    arrays |= {
        _GROUPS: np.concatenate([np.array(sorted(row.groups), np.uint64) for row in rows]),
        _RESAMPLED: np.asarray(totals.resampled),
        _SIZES: np.array(list(totals.sizes.values()), np.float64),
        _DOCUMENT: np.array(document.model_dump_json()),
    }
    content = io.BytesIO()
    np.savez(content, **arrays)
    replace_file(path, content.getvalue())


def read_totals(path: Path) -> Totals:
    """What `write_totals` wrote.

    Raises:
      UserError: it is damaged, or something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        document = _Document.model_validate_json(str(arrays.pop(_DOCUMENT)))
        _check(arrays, document)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, ValidationError) as error:
        raise UserError(
            f"{path}: not what this project wrote ({last_line(error)}), expected counts of a measurement: remove it, "
            "and it is measured again"
        ) from None
    ends = np.cumsum([0, *(part.groups for part in document.parts)])
    groups = [set(arrays[_GROUPS][start:end].tolist()) for start, end in pairwise(ends)]
    rows = [
        SliceTotals(
            Sums(*(arrays[name][row] for name in Sums._fields)), part.images, groups[row], part.smallest, part.largest
        )
        for row, part in enumerate(document.parts)
    ]
    slices, bins = rows[1 : 1 + len(document.slices)], rows[1 + len(document.slices) :]
    return Totals(
        images=document.whole.images,
        groups=groups[0],
        sums=rows[0].sums,
        resampled=arrays[_RESAMPLED],
        slices=dict(zip((key for key, _ in document.slices), slices, strict=True)),
        size_bins=dict(zip((key for key, _ in document.bins), bins, strict=True)),
        sizes=dict(zip(document.sizes, arrays[_SIZES], strict=True)),
        worst=document.worst,
        best=document.best,
        sample=document.sample,
    )


def _part(part: SliceTotals) -> _Part:
    return _Part(images=part.images, groups=len(part.groups), smallest=part.smallest, largest=part.largest)


def _check(arrays: Mapping[str, np.ndarray], document: _Document) -> None:
    """Raises ValueError or KeyError where arrays are not those of the document."""
    rows, classes, resamples = len(document.parts), arrays["present"].shape[-1], len(arrays[_RESAMPLED])
    thresholds, bins = arrays["curves"].shape[-1], arrays["calibration"].shape[1]
    sums = {
        "counts": (classes, classes),
        "model_size_counts": (classes, classes),
        "probability_sums": (3,),
        "calibration": (bins, 3),
        "found": (classes,),
        "present": (classes,),
        "alarms": (2,),
        "false": (classes,),
        "curves": (2, classes, thresholds),
    }
    for name, shape in sums.items():
        _require(name, arrays[name], np.float64, (rows, *shape))
    # The margins of the counts, found, present and false by class, the alarms, the curves.
    vector = 6 * classes + 2 + 2 * classes * thresholds
    _require(_RESAMPLED, arrays[_RESAMPLED], np.float64, (resamples, vector))
    steps = len(document.sizes)
    _require(_SIZES, arrays[_SIZES], np.float64, (steps, 1 + resamples, 2) if steps else (0,))
    _require(_GROUPS, arrays[_GROUPS], np.uint64, (sum(part.groups for part in document.parts),))


def _require(name: str, array: Numbers, dtype: type[np.generic], shape: Sequence[int]) -> None:
    if array.dtype != dtype or array.shape != tuple(shape):
        raise ValueError(f"{name} is {array.dtype} {array.shape}, expected {dtype.__name__} {tuple(shape)}")
