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
      digests: of the decoded pixels, as `flexunet.dataset.groups.pixel_digest` makes them.
      thumbnails: float16 [N, 50, 50], mapped from the file, not read.
    """

    groups: Sequence[str]
    splits: Mapping[str, str]
    sizes: NDArray[np.int64]
    digests: Sequence[str]
    thumbnails: NDArray[np.float16]

    def placed(self) -> Iterator[tuple[str, str]]:
        """Group and split of each image."""
        return zip(self.groups, self.splits.values(), strict=True)


def write_assignment(version: Path, rows: Sequence[Row]) -> None:
    """Both files, by id."""
    ordered = sorted(rows, key=lambda row: row.facts.pair.id)
    with (version / ASSIGNMENT).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for row in ordered:
            f = row.facts
            writer.writerow([f.pair.id, row.group, row.split, f.width, f.height, f.pixel_digest])
    # Into memory first: on a full disk NumPy's own writing tells only how many bytes were asked for.
    thumbnails = io.BytesIO()
    np.save(thumbnails, np.stack([row.facts.thumbnail for row in ordered]), allow_pickle=False)
    (version / THUMBNAILS).write_bytes(thumbnails.getbuffer())


def read_assignment(version: Path) -> Assignment | None:
    """None for records that were made elsewhere."""
    if not (version / ASSIGNMENT).is_file():
        return None
    with (version / ASSIGNMENT).open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    return Assignment(
        groups=[line["group"] for line in lines],
        splits={line["id"]: line["split"] for line in lines},
        sizes=np.array([(line["width"], line["height"]) for line in lines], np.int64),
        digests=[line["pixels_sha256"] for line in lines],
        thumbnails=np.load(version / THUMBNAILS, mmap_mode="r", allow_pickle=False),
    )
