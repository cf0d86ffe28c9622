"""Which image went to which split, kept beside the records: groups stay where they are when images or spans are added.

`images.csv` is for people too; `thumbnails.npy`, float16 [N, 50, 50] in the same order, lets a later ingest recognise
near-duplicates of these images when their files are gone.
"""

import csv
import functools
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flexunet.core.config.data import SegmentationClass
from flexunet.core.config.whole import Config
from flexunet.dataset.examine import Facts, read_class_ids, read_small
from flexunet.reporting.data import DataImage

ASSIGNMENT: Final = "images.csv"
THUMBNAILS: Final = "thumbnails.npy"
_COLUMNS: Final = ("id", "group", "split", "width", "height", "pixels_sha256")


@dataclass(frozen=True)
class Row:
    """A checked pair, the id of its group's first image, and its split."""

    facts: Facts
    group: str
    split: str

    def shown(self, config: Config) -> DataImage:
        """What the page of the data set shows of it."""
        facts = self.facts
        return DataImage(
            facts.pair.id,
            self.group,
            self.split,
            facts.width,
            facts.height,
            facts.pixels,
            facts.brightness,
            read_small=functools.partial(read_small, facts.pair, config),
            read_class_ids=functools.partial(read_class_ids, facts.pair, (facts.width, facts.height), config),
        )


@dataclass(frozen=True)
class Assignment:
    """The images of a version; arrays and sequences of equal length N.

    Attributes:
      groups: id of the group of each.
      splits: split by image id, in the order of the other fields.
      sizes: int [N, 2], width and height.
      digests: of the decoded pixels, as `flexunet.dataset.thumbnails.pixel_digest` makes them.
      measures: what drift is told by, float64 [N] by name; nothing where an earlier version wrote the file.
      thumbnails: float16 [N, 50, 50], mapped from the file, not read.
    """

    groups: Sequence[str]
    splits: Mapping[str, str]
    sizes: NDArray[np.int64]
    digests: Sequence[str]
    measures: Mapping[str, NDArray[np.float64]]
    thumbnails: NDArray[np.float16]

    def placed(self) -> Iterator[tuple[str, str]]:
        """Group and split of each image."""
        return zip(self.groups, self.splits.values(), strict=True)


def measures_of(facts: Sequence[Facts], classes: Sequence[SegmentationClass]) -> dict[str, NDArray[np.float64]]:
    """What drift between spans is told by, float64 `[N]` each, by the names of the columns of `images.csv`."""
    pixels = np.array([f.pixels for f in facts], np.float64).reshape(len(facts), len(classes))
    shares = pixels / np.maximum(pixels.sum(axis=1, keepdims=True), 1)
    return {
        "brightness": np.array([f.brightness for f in facts]),
        "contrast": np.array([f.contrast for f in facts]),
        "sharpness": np.array([f.sharpness for f in facts]),
        "side": np.sqrt([float(f.height * f.width) for f in facts]),
        "without defect": np.array([float(not f.defects) for f in facts]),
        **{f"share of {c.name}": shares[:, i] for i, c in enumerate(classes) if i},
    }


def write_assignment(version: Path, rows: Sequence[Row], classes: Sequence[SegmentationClass]) -> None:
    """Both files, by id."""
    ordered = sorted(rows, key=lambda row: row.facts.pair.id)
    measures = measures_of([row.facts for row in ordered], classes)
    with (version / ASSIGNMENT).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_COLUMNS, *measures])
        for row, *values in zip(ordered, *measures.values(), strict=True):
            f = row.facts
            numbers = [f"{value:.6g}" for value in values]
            writer.writerow([f.pair.id, row.group, row.split, f.width, f.height, f.pixel_digest, *numbers])
    # Into memory first: on a full disk NumPy's own writing tells only how many bytes were asked for.
    thumbnails = io.BytesIO()
    np.save(thumbnails, np.stack([row.facts.thumbnail for row in ordered]), allow_pickle=False)
    (version / THUMBNAILS).write_bytes(thumbnails.getbuffer())


def read_assignment(version: Path) -> Assignment | None:
    """None for records that were made elsewhere."""
    if not (version / ASSIGNMENT).is_file():
        return None
    with (version / ASSIGNMENT).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        lines, names = list(reader), reader.fieldnames or ()
    return Assignment(
        groups=[line["group"] for line in lines],
        splits={line["id"]: line["split"] for line in lines},
        sizes=np.array([(line["width"], line["height"]) for line in lines], np.int64),
        digests=[line["pixels_sha256"] for line in lines],
        measures={name: np.array([float(line[name]) for line in lines]) for name in names if name not in _COLUMNS},
        thumbnails=np.load(version / THUMBNAILS, mmap_mode="r", allow_pickle=False),
    )
