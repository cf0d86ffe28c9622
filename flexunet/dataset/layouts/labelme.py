"""labelme: `a.json` beside `a.jpg`, or in another folder."""

import base64
import binascii
import math
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

import ijson
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field

from flexunet.core.config.whole import Config
from flexunet.dataset.annotation import Annotation, BadAnnotation, Drawn, class_id_of, paint
from flexunet.dataset.layouts.bounded import parse_json, read_bytes, top_level
from flexunet.dataset.layouts.interface import Reader, Reading, Source, SourceClass
from flexunet.dataset.layouts.names import images_by_id, others_by_id, printable
from flexunet.dataset.layouts.outlines import is_box, pack_polygons, unpack
from flexunet.dataset.layouts.pairing import annotated, pair_up

_CIRCLE_POINTS: Final = 128
# X-AnyLabeling writes all of a rectangle's, and turned ones as a `rotation`.
_CORNERS: Final = 4
_IGNORED_LABELS: Final = frozenset({"_background_", "background"})

_Number = Annotated[float, Field(allow_inf_nan=False)]


class _Shape(BaseModel):
    label: str
    points: list[Annotated[list[_Number], Field(min_length=2, max_length=2)]]
    shape_type: str | None = None
    mask: str | None = None


class _File(BaseModel):
    shapes: list[_Shape]
    imagePath: str = ""  # noqa: N815 - labelme's names
    imageHeight: int | None = None  # noqa: N815
    imageWidth: int | None = None  # noqa: N815


@dataclass(frozen=True)
class Labelme(Annotation):
    """One file of labelme's, and the stem of the image that it stands beside."""

    path: Path
    stem: str

    def read(self) -> bytes:
        return read_bytes(self.path)

    def draw(self, content: bytes, size: tuple[int, int], config: Config) -> Drawn:
        file = parse_json(content, _File)
        said = (file.imageWidth or size[0], file.imageHeight or size[1])
        if said != size:
            what = f"says {said[0]}x{said[1]} of an image of {size[0]}x{size[1]}"
            raise BadAnnotation(what, "the image's own size", "label this image, not another version of it")
        named = PurePosixPath(printable(file.imagePath).replace("\\", "/")).stem
        if named and named != self.stem:
            what = f"is of the image {named}, and by its own name of {self.stem}"
            raise BadAnnotation(what, "one image", "rename one of them")
        shapes = [
            (number, shape)
            for number, shape in enumerate(file.shapes)
            if shape.label not in _IGNORED_LABELS or shape.label == config.classes[0].name
        ]
        regions = [(class_id_of(s.label, config.classes), _region(number, s, size)) for number, s in shapes]
        boxes = [s.shape_type != "mask" and is_box(_outline(s)) for _, s in shapes]
        return paint(regions, size, config.records.overlaps, boxes)


def _region(number: int, shape: _Shape, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Bool `[h, w]`."""
    try:
        if shape.shape_type == "mask":
            return _from_mask(shape, size)
        return unpack(pack_polygons([_outline(shape)], size), size)
    except BadAnnotation as bad:
        raise bad.within(f"shape {number} ({shape.label}): ") from None


def _outline(shape: _Shape) -> list[float]:
    """A shape as `x, y, x, y, ...`."""
    points = shape.points
    is_closed = shape.shape_type == "rectangle" and len(points) == _CORNERS
    if shape.shape_type in (None, "polygon", "rotation") or is_closed:
        return [coordinate for point in points for coordinate in point]
    if shape.shape_type in ("rectangle", "circle") and len(points) != 2:
        raise BadAnnotation(f"a {shape.shape_type} of {len(points)} points", "2", "redraw it")
    if shape.shape_type == "rectangle":
        (left, top), (right, bottom) = points
        return [left, top, right, top, right, bottom, left, bottom]
    if shape.shape_type == "circle":
        (x, y), rim = points
        radius = math.dist((x, y), rim)
        angles = [2 * math.pi * step / _CIRCLE_POINTS for step in range(_CIRCLE_POINTS)]
        return [c for a in angles for c in (x + radius * math.cos(a), y + radius * math.sin(a))]
    raise BadAnnotation(
        f"a {shape.shape_type}",
        "a polygon, a rectangle, a circle or a mask",
        "points and lines have no area: redraw it",
    )


def _from_mask(shape: _Shape, size: tuple[int, int]) -> NDArray[np.bool_]:
    """labelme's own masks: a PNG for the box between two points, the last of which belongs to it."""
    if len(shape.points) != 2 or shape.mask is None:
        raise BadAnnotation("a mask without its two points or its PNG", "both", "save it anew")
    left, top, right, bottom = (round(coordinate) for point in shape.points for coordinate in point)
    width, height = right - left + 1, bottom - top + 1
    inside = left >= 0 and top >= 0 and right < size[0] and bottom < size[1]
    try:
        image = Image.open(BytesIO(base64.b64decode(shape.mask, validate=True)), formats=("PNG",))
        if not inside or image.size != (width, height):
            what = f"a mask of {image.width}x{image.height} for the box {left}, {top} to {right}, {bottom}"
            raise BadAnnotation(what, f"one inside of {size[0]}x{size[1]}", "save it anew")
        pixels = np.asarray(image.convert("L"))
    except (binascii.Error, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise BadAnnotation("a mask that is no PNG", "a PNG as base64", "save it anew") from None
    region = np.zeros((size[1], size[0]), np.bool_)
    region[top : bottom + 1, left : right + 1] = pixels > 0
    return region


def _signs(source: Source) -> str:
    return next((name for name in source.files.with_suffix({".json"}) if _kind(source.root / name) == "labelme"), "")


def _read(source: Source) -> Reading:
    """What is no whole JSON may be a damaged file of labelme's: it is taken too, and named when it is drawn."""

    def annotation(path: Path) -> Labelme:
        return Labelme(path, printable(path.stem))

    return pair_up(source, images_by_id(source), _files(source), annotated(source, annotation), "labelme file")


def _files(source: Source) -> dict[str, list[str]]:
    found = others_by_id(source, {".json"})
    ours = {i: [name for name in names if _kind(source.root / name) != "other"] for i, names in found.items()}
    return {i: names for i, names in ours.items() if names}


def _kind(path: Path) -> str:
    """`labelme` for an object with a list `shapes`, `damaged` for no JSON, else `other`."""
    try:
        with path.open("rb") as file:
            for key, event in top_level(file):
                if key == "shapes":
                    return "labelme" if event == "start_array" else "other"
                if key in ("images", "annotations", "categories"):
                    return "other"
    except (ijson.JSONError, ValueError, OSError):
        return "damaged"
    return "other"


def _classes(source: Source) -> list[SourceClass]:
    labels = {
        shape.label
        for names in _files(source).values()
        for name in names
        if _kind(source.root / name) == "labelme"
        for shape in parse_json(read_bytes(source.root / name), _File).shapes
    }
    return [SourceClass(label) for label in sorted(labels - _IGNORED_LABELS)]


READER = Reader("labelme", "labelme's JSON, a.json for a.jpg", _signs, _read, _classes)
