"""Polygons and run lengths of strangers, checked and brought to pixels by pycocotools, whose code trusts its input."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from flexunet.core.config.whole import Config
from flexunet.dataset.annotation import Annotation, BadAnnotation, Drawn, class_id_of, paint

# Its stubs know fewer forms than its code.
_tools: Any = coco_mask

# Tools round points at the border outwards; they are clipped.
_TOLERANCE: Final = 1.0
# pycocotools makes 5 points of each pixel of an outline: 160 MB of these.
_LONGEST_OUTLINE: Final = 2_000_000
_LARGEST_SIDE: Final = 65_535
# Pixels by which the corners of a box may be off, that was turned and rounded, and its least side.
_BOX_TOLERANCE: Final = 1.0
_LEAST_BOX_SIDE: Final = 2.0


@dataclass(frozen=True)
class Instance:
    """A region of one class.

    Attributes:
      name: of its class.
      counts: its run lengths as pycocotools packs them; made by this module, never a stranger's own.
      is_box: whether it was drawn as a rectangle.
    """

    name: str
    counts: bytes
    is_box: bool = False


@dataclass(frozen=True)
class Instances(Annotation):
    """The regions of one image, in the order of the file, which many images share; about a hundred bytes each."""

    width: int
    height: int
    instances: tuple[Instance, ...]

    def read(self) -> bytes:
        return b"\0".join([*(instance.name.encode() + b"\0" + instance.counts for instance in self.instances)])

    def draw(self, content: bytes, size: tuple[int, int], config: Config) -> Drawn:
        if size != (self.width, self.height):
            raise BadAnnotation(
                f"says {self.width}x{self.height} of an image of {size[0]}x{size[1]}",
                "the image's own size",
                "export it again for these images",
            )
        regions = [(class_id_of(i.name, config.classes), unpack(i.counts, size)) for i in self.instances]
        return paint(regions, size, config.records.overlaps, [i.is_box for i in self.instances])


def is_box(polygon: Sequence[float]) -> bool:
    """Whether an outline, `x, y, x, y, ...` in pixels, is a rectangle, upright or turned, more than a pixel wide."""
    is_closed = len(polygon) == 10 and polygon[:2] == polygon[-2:]
    if len(polygon) != 8 and not is_closed:
        return False
    first, second, third, fourth = np.reshape(polygon[:8], (4, 2))
    # Of rectangles the diagonals halve each other and are equal.
    apart = np.abs(first + third - second - fourth).max()
    longer = abs(np.linalg.norm(third - first) - np.linalg.norm(fourth - second))
    sides = min(np.linalg.norm(second - first), np.linalg.norm(third - second))
    return bool(max(apart, longer) <= _BOX_TOLERANCE and sides >= _LEAST_BOX_SIDE)


def pack_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> bytes:
    """The union of polygons, each `x, y, x, y, ...` in pixels from the image's upper left corner; `size` is (w, h).

    A pixel belongs to it as COCO's own tools have it: the square from (2, 3) to (5, 7) covers columns 2 to 4.

    Raises:
      BadAnnotation: a polygon is none, or leaves the image by more than a pixel.
    """
    width, height = checked_size(size)
    clipped = [_clipped(polygon, (width, height)) for polygon in polygons]
    return _tools.merge(_tools.frPyObjects(clipped, height, width))["counts"]


def pack_run_lengths(counts: Sequence[int], size: tuple[int, int]) -> bytes:
    """Lengths of runs of 0 and 1 in turn, down the columns, as COCO has them; `size` is (w, h).

    Raises:
      BadAnnotation: they do not add up to the image.
    """
    width, height = checked_size(size)
    total = sum(counts)
    if min(counts, default=0) < 0 or total != width * height:
        raise BadAnnotation(
            f"run lengths of {total} pixels", f"{width * height}, for {width}x{height}", "export it again"
        )
    return _tools.frPyObjects({"size": [height, width], "counts": list(counts)}, height, width)["counts"]


def parse_counts(text: str) -> list[int]:
    """The run lengths in COCO's text form: base 32 from character 48 on, from the third on differences.

    pycocotools' own parser reads and writes past its memory when they are wrong.

    Raises:
      BadAnnotation: the text is none.
    """
    counts: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise BadAnnotation(f"run lengths with the character {character!r}", "COCO's text form", "export it again")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            value -= (1 << shift) if bits & 0x10 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value, shift = 0, 0
    if shift:
        raise BadAnnotation("run lengths that end in the middle of a number", "COCO's text form", "export it again")
    return counts


def unpack(counts: bytes, size: tuple[int, int]) -> NDArray[np.bool_]:
    """What `pack_polygons` and `pack_run_lengths` made, as bool `[h, w]`; `size` is (w, h)."""
    width, height = size
    return np.asarray(_tools.decode({"size": [height, width], "counts": counts}), np.bool_)


def checked_size(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height that pycocotools can count with.

    Raises:
      BadAnnotation: they are none of an image.
    """
    if not all(1 <= side <= _LARGEST_SIDE for side in size) or size[0] * size[1] >= 2**31:
        raise BadAnnotation(f"an image of {size[0]}x{size[1]}", "a size of an image", "correct it")
    return size


def _clipped(polygon: Sequence[float], size: tuple[int, int]) -> list[float]:
    if len(polygon) < 6 or len(polygon) % 2:
        raise BadAnnotation(f"a polygon of {len(polygon)} numbers", "x, y of at least 3 points", "remove or redraw it")
    points = np.asarray(polygon, np.float64).reshape(-1, 2)
    outside = ~((points >= -_TOLERANCE) & (points <= np.add(size, _TOLERANCE))).all(axis=1)
    if outside.any():
        x, y = points[outside][0]
        raise BadAnnotation(
            f"a polygon with the point ({x:g}, {y:g}), outside of its image",
            f"0 to {size[0]}, 0 to {size[1]}",
            "redraw it",
        )
    length = np.abs(np.diff(points, axis=0, append=points[:1])).max(axis=1).sum()
    if length > _LONGEST_OUTLINE:
        raise BadAnnotation(f"a polygon {length:,.0f} pixels long", f"at most {_LONGEST_OUTLINE:,}", "redraw it")
    return points.clip(0, size).ravel().tolist()
