"""Masks that are not drawn yet: what tells the class of each pixel where that is no mask file."""

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from flexunet.core.config.data import SegmentationClass
from flexunet.core.config.whole import Config
from flexunet.core.features import BACKGROUND_ID


class BadAnnotation(Exception):
    """An annotation that cannot be drawn."""

    def __init__(self, what: str, expected: str, repair: str) -> None:
        self.words = (what, expected, repair)
        super().__init__(f"{what}; expected {expected}: {repair}")

    def within(self, where: str) -> "BadAnnotation":
        """The same, and `where` in the annotation: `line 3: `."""
        what, expected, repair = self.words
        return BadAnnotation(f"{where}{what}", expected, repair)


@dataclass(frozen=True)
class Drawn:
    """A mask.

    Attributes:
      class_ids: uint8 `[h, w]`.
      overlaps: pixels on which instances of two classes lie; `records.overlaps` decided them.
      empty: instances that cover no pixel.
      boxes: whether all instances were drawn as rectangles, upright or turned.
    """

    class_ids: NDArray[np.uint8]
    overlaps: int = 0
    empty: int = 0
    boxes: bool = False


class Annotation(ABC):
    """What a format says of one image. Immutable, small and picklable: workers draw it.

    Attributes:
      tells_size: whether the format says the size of the image, or draws nothing: else the size of an image that EXIF
        turned does not tell which way its annotation was drawn.
    """

    tells_size: ClassVar[bool] = True

    @abstractmethod
    def read(self) -> bytes:
        """What the mask is made of: equal bytes give an equal mask.

        Raises:
          OSError: a file cannot be read.
          BadAnnotation: a file is larger than such files can be.
        """

    @abstractmethod
    def draw(self, content: bytes, size: tuple[int, int], config: Config) -> Drawn:
        """The mask.

        Args:
          content: what `read` returned.
          size: width and height of the image.
          config: names of the classes, and which instance is on top.

        Raises:
          BadAnnotation: says what is wrong.
        """


@dataclass(frozen=True)
class Background(Annotation):
    """An image without a defect."""

    def read(self) -> bytes:
        return b""

    def draw(self, content: bytes, size: tuple[int, int], config: Config) -> Drawn:
        width, height = size
        return Drawn(np.full((height, width), BACKGROUND_ID, np.uint8))


def class_id_of(name: str, classes: Sequence[SegmentationClass]) -> int:
    """The id of a class that an annotation names.

    Raises:
      BadAnnotation: there is no such class.
    """
    names = [c.name for c in classes]
    for candidate in (name, plain_name(name)):
        if candidate in names:
            return names.index(candidate)
    raise BadAnnotation(
        f"names the class {name!r}", f"one of {', '.join(names)}", "correct it, or add the class to [[classes]]"
    )


def plain_name(name: str) -> str:
    """A class's name as a config can hold it: one line of printable text, in NFC, of at most 64 characters."""
    spaced = " ".join(unicodedata.normalize("NFC", name).split())
    return "".join(character for character in spaced if character.isprintable())[:64].strip() or "class"


def paint(
    regions: Sequence[tuple[int, NDArray[np.bool_]]], size: tuple[int, int], order: str, are_boxes: Sequence[bool] = ()
) -> Drawn:
    """Draws regions over each other.

    Args:
      regions: class id and bool `[h, w]` of each, in the order of the file.
      size: width and height.
      order: `records.overlaps`.
      are_boxes: of each, whether it was drawn as a rectangle; of none where the file cannot tell.
    """
    if order == "smallest":
        regions = sorted(regions, key=lambda region: -int(region[1].sum()))
    elif order == "classes":
        regions = sorted(regions, key=lambda region: region[0])
    width, height = size
    class_ids = np.full((height, width), BACKGROUND_ID, np.uint8)
    overlapping = np.zeros((height, width), np.bool_)
    for class_id, region in regions:
        # A shape of the background is a hole that somebody drew.
        if class_id != BACKGROUND_ID:
            overlapping |= region & (class_ids != BACKGROUND_ID) & (class_ids != class_id)
        class_ids[region] = class_id
    empty = sum(not region.any() for _, region in regions)
    return Drawn(class_ids, int(overlapping.sum()), empty, bool(are_boxes) and all(are_boxes))
