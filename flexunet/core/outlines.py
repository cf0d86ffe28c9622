"""Masks as the annotations that labelling tools load: outlines of regions, labelme's and COCO's documents."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from flexunet.core.features import BACKGROUND_ID

Point = tuple[int, int]


class LabelmeShape(TypedDict):
    """One shape: its label and its points (x, y)."""

    label: str
    points: list[Point]
    group_id: int | None
    shape_type: str
    flags: dict[str, bool]


class LabelmeDocument(TypedDict):
    """A file of labelme; `imageData`: the image itself, in base64, where it holds one."""

    version: str
    flags: dict[str, bool]
    shapes: list[LabelmeShape]
    imagePath: str
    imageData: str | None
    imageHeight: int
    imageWidth: int


class RunLengths(TypedDict):
    """COCO's uncompressed run lengths of a mask `[height, width]`."""

    size: list[int]
    counts: list[int]


class CocoAnnotation(TypedDict):
    """A region of an image; `bbox` is left, top, width, height; `iscrowd` is 1 where there are run lengths."""

    id: int
    image_id: int
    category_id: int
    segmentation: RunLengths | list[list[int]]
    area: int
    bbox: list[int]
    iscrowd: int


class Outline(NamedTuple):
    """A closed line along the edges of pixels: points (x, y), from the upper left corner of the image on.

    `area` is in pixels what it encloses, negative where it is a hole of its region.
    """

    points: list[Point]
    area: int


def outlines(region: NDArray[np.bool_]) -> list[Outline]:
    """The borders of a region, bool `[h, w]`, and of its holes; pixels that touch at a corner are apart.

    Drawn again, borders minus holes are the region to the pixel.
    """
    following = _edges(region)
    found = []
    while following:
        start = next(iter(following))
        found.append(_closed(start, following))
    return found


def labelme_document(file_name: str, class_ids: NDArray[np.uint8], class_names: Sequence[str]) -> LabelmeDocument:
    """A mask, uint8 `[h, w]`, as labelme's JSON; the last shape is on top, holes are shapes of the background."""
    found = [
        (class_names[class_id if outline.area > 0 else BACKGROUND_ID], outline)
        for class_id, region in _regions(class_ids)
        for outline in outlines(region)
    ]
    # A hole comes before what fills it.
    found.sort(key=lambda entry: (-abs(entry[1].area), entry[1].area > 0))
    shapes: list[LabelmeShape] = [
        {"label": label, "points": outline.points, "group_id": None, "shape_type": "polygon", "flags": {}}
        for label, outline in found
    ]
    height, width = class_ids.shape
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": file_name,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def coco_annotations(image_id: int, first_id: int, class_ids: NDArray[np.uint8]) -> list[CocoAnnotation]:
    """The regions of a mask, uint8 `[h, w]`, as COCO's annotations numbered from `first_id` on.

    A class without holes is polygons; with holes it is run lengths, since COCO's polygons have none.
    """
    found: list[CocoAnnotation] = []
    for number, (class_id, region) in enumerate(_regions(class_ids), start=first_id):
        borders = outlines(region)
        has_holes = any(border.area < 0 for border in borders)
        polygons = [[coordinate for point in border.points for coordinate in point] for border in borders]
        rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
        left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        found.append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": class_id,
                "segmentation": _run_lengths(region) if has_holes else polygons,
                "area": int(region.sum()),
                "bbox": [int(left), int(top), int(right - left), int(bottom - top)],
                "iscrowd": int(has_holes),
            }
        )
    return found


def _regions(class_ids: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    for class_id in np.unique(class_ids).tolist():
        if class_id != BACKGROUND_ID:
            yield class_id, class_ids == class_id


def _run_lengths(region: NDArray[np.bool_]) -> RunLengths:
    """Down the columns, the first of pixels outside."""
    flat = region.T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    bounds = [0, *([0] if flat[0] else []), *ends.tolist(), flat.size]
    return {"size": list(region.shape), "counts": [end - start for start, end in pairwise(bounds)]}


def _edges(region: NDArray[np.bool_]) -> dict[Point, list[Point]]:
    """Edges of pixels at the border, clockwise around the region, by their start."""
    padded = np.pad(region, 1)
    inside = padded[1:-1, 1:-1]
    neighbours = {
        ((0, 0), (1, 0)): padded[:-2, 1:-1],
        ((1, 0), (1, 1)): padded[1:-1, 2:],
        ((1, 1), (0, 1)): padded[2:, 1:-1],
        ((0, 1), (0, 0)): padded[1:-1, :-2],
    }
    following: dict[Point, list[Point]] = {}
    for ((x0, y0), (x1, y1)), neighbour in neighbours.items():
        for y, x in np.argwhere(inside & ~neighbour).tolist():
            following.setdefault((x + x0, y + y0), []).append((x + x1, y + y1))
    return following


def _closed(start: Point, following: dict[Point, list[Point]]) -> Outline:
    """Takes one closed line out of the edges; where two meet at a corner it turns right, staying at its pixel."""
    points: list[Point] = []
    at, step, area = start, (0, 0), 0
    while not points or at != start:
        ends = following[at]
        right = (at[0] - step[1], at[1] + step[0])
        end = right if right in ends else ends[0]
        ends.remove(end)
        if not ends:
            del following[at]
        if (end[0] - at[0], end[1] - at[1]) != step:
            points.append(at)
        step = (end[0] - at[0], end[1] - at[1])
        area += at[0] * step[1]
        at = end
    return Outline(points, area)
