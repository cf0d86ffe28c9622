"""COCO JSON: polygons and run lengths of many images in one file; as COCO, CVAT, Label Studio and Roboflow write it."""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, TypeVar
from urllib.parse import unquote

import ijson
from pydantic import BaseModel, Field, ValidationError

from flexunet.core.problems import Problem
from flexunet.core.readable import IMAGE_SUFFIXES
from flexunet.dataset.annotation import BadAnnotation
from flexunet.dataset.layouts.bounded import nested_events, refuse, require_shallow, streaming
from flexunet.dataset.layouts.interface import Reader, Reading, Source, SourceClass
from flexunet.dataset.layouts.names import place, printable, split_named, split_of
from flexunet.dataset.layouts.outlines import (
    Instance,
    Instances,
    checked_size,
    is_box,
    pack_polygons,
    pack_run_lengths,
    parse_counts,
)
from flexunet.dataset.pairs import Pair

_FILE_BYTES: Final = 4 * 2**30
_LISTED: Final = 20
_KEYS: Final = frozenset({"images", "annotations", "categories"})
# A file that is not COCO's shows that within its first values, or not before its end.
_EVENTS: Final = 200_000
# `/data/upload/1/a.png`, `C:/photos/a.png`, `s3://bucket/a.png`.
_ELSEWHERE: Final = re.compile(r"/|[A-Za-z][A-Za-z0-9+.-]*:")

_Identity = int | str
Model = TypeVar("Model", bound=BaseModel)
_Known = TypeVar("_Known")


class _Image(BaseModel, strict=True):
    id: _Identity
    file_name: str
    width: int
    height: int


class _Category(BaseModel, strict=True):
    id: _Identity
    name: str
    supercategory: object = None


class _RunLengths(BaseModel, strict=True):
    size: Annotated[list[int], Field(min_length=2, max_length=2)]
    counts: list[int] | str


class _Region(BaseModel, strict=True):
    id: _Identity | None = None
    image_id: _Identity
    category_id: _Identity
    segmentation: list[list[Annotated[float, Field(allow_inf_nan=False)]]] | _RunLengths | None = None
    score: object = None


@dataclass
class _Document:
    """What one file says; regions are packed, about a hundred bytes each."""

    path: Path
    images: dict[_Identity, _Image] = field(default_factory=dict)
    names: dict[_Identity, str] = field(default_factory=dict)
    regions: dict[_Identity, list[Instance]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    bad_images: set[_Identity] = field(default_factory=set)
    roots: set[str] = field(default_factory=set)
    scored: int = 0

    def refuse(self, bad: BadAnnotation, where: str = "") -> None:
        what, expected, repair = bad.words
        self.problems.append(Problem(self.path, f"{where}{what}", expected, repair))


def _signs(source: Source) -> str:
    found = _documents(source)
    return f"{found[0]}" if found else ""


def _read(source: Source) -> Reading:
    reading, by_ending, scored, roots = Reading(), _by_ending(source), 0, set[str]()
    for name in _documents(source):
        reading.read.add(name)
        document = _load(source.root / name)
        reading.problems += document.problems
        scored += document.scored
        roots |= document.roots
        for identity, image in document.images.items():
            if identity not in document.bad_images:
                _pair(source, reading, document, name, image, by_ending)
    clean = sum(isinstance(pair.annotation, Instances) and not pair.annotation.instances for pair in reading.pairs)
    if clean:
        reading.notes.append(f"{clean} images without an annotation in the JSON are background as a whole")
    if scored:
        reading.notes.append(
            f"{scored} annotations have a score, as a model's predictions do: they are taken for truth"
        )
    reading.notes += [
        f"the category {name} stands for the others, as Roboflow writes it, and is no class" for name in sorted(roots)
    ]
    images = set(source.files.with_suffix(IMAGE_SUFFIXES))
    reading.reasons = dict.fromkeys(images - reading.read, "images that the JSON does not list")
    seen = Counter(pair.id for pair in reading.pairs)
    for pair in [pair for pair in reading.pairs if seen[pair.id] > 1]:
        reading.problems.append(Problem(pair.mask, f"lists {pair.id}, as another entry does", "one", "merge them"))
    reading.pairs = [pair for pair in reading.pairs if seen[pair.id] == 1]
    return reading


def _pair(
    source: Source, reading: Reading, document: _Document, name: str, image: _Image, by_ending: Mapping[str, list[str]]
) -> None:
    try:
        found = _find(image.file_name, name, by_ending)
        size = checked_size((image.width, image.height))
    except BadAnnotation as bad:
        document.refuse(bad)
        reading.problems.append(document.problems[-1])
        return
    reading.read.add(found)
    pair_id = place(found).id
    split = split_of(pair_id) or _split_of_document(name)
    instances = Instances(*size, tuple(document.regions.get(image.id, ())))
    reading.pairs.append(Pair(pair_id, source.root / found, document.path, split, instances))


def _find(file_name: str, document: str, by_ending: Mapping[str, list[str]]) -> str:
    """The image below the source whose path ends in `file_name`, or in the end of it where that is a path of another
    machine; of several the one that shares most folders.

    Only names that were found are compared, so that no path leads out of the source.
    """
    path = printable(file_name).replace("\\", "/")
    found = _named(path, by_ending) or _named(printable(unquote(path)), by_ending)
    if not found:
        raise BadAnnotation(f"lists {file_name!r}, which is not there", "an image below SOURCE", "add or remove it")
    nearest = sorted(found, key=lambda n: -_shared(n, document))
    if len(found) > 1 and _shared(nearest[0], document) == _shared(nearest[1], document):
        raise BadAnnotation(
            f"lists {file_name!r}, which could be {' or '.join(sorted(found)[:3])}",
            "one image",
            "write more of its path",
        )
    return nearest[0]


def _named(path: str, by_ending: Mapping[str, list[str]]) -> list[str]:
    """Images whose paths end in `path`; of one of another machine, a drive or a store, in as much of its end as any."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    named = by_ending.get(parts[-1] if parts else "", ())
    endings = len(parts) if _ELSEWHERE.match(path) else 1
    return next((f for i in range(endings) if (f := [n for n in named if _ends(n, parts[i:])])), [])


def _ends(name: str, parts: Sequence[str]) -> bool:
    return f"/{printable(name)}".endswith("/" + "/".join(parts))


def _shared(name: str, document: str) -> int:
    """How well an image's folders fit the document's place: 1000 for each folder, 1 if both are of one split."""
    folders, others = PurePosixPath(name).parts[:-1], PurePosixPath(document).parts[:-1]
    common = next(
        (i for i, (a, b) in enumerate(zip(folders, others, strict=False)) if a != b), min(len(folders), len(others))
    )
    split = _split_of_document(document)
    return 1000 * common + (split is not None and split_of(name) == split)


def _split_of_document(name: str) -> str | None:
    """The split of `train/_annotations.coco.json` and of `annotations/instances_val2017.json`."""
    words = PurePosixPath(name).stem.replace("-", "_").replace(".", "_").split("_")
    return split_of(name) or next((split for word in words if (split := split_named(word))), None)


def _by_ending(source: Source) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in source.files.with_suffix(IMAGE_SUFFIXES):
        found.setdefault(printable(name).rpartition("/")[2], []).append(name)
    return found


def _documents(source: Source) -> list[str]:
    return [name for name in source.files.with_suffix({".json"}) if _is_coco(source.root / name)]


def _is_coco(path: Path) -> bool:
    """Whether it is an object with two of COCO's lists, or with one that is longer than anybody wants to wait for."""
    seen: set[str] = set()
    number = 0
    try:
        with path.open("rb") as file:
            for number, (depth, event, value) in enumerate(itertools.islice(nested_events(file), _EVENTS), start=1):
                seen.update({value} & _KEYS if (event, depth) == ("map_key", 1) else ())
                if len(seen) > 1 or (number == 1 and event != "start_map") or (event, value) == ("map_key", "shapes"):
                    break
    except (ijson.JSONError, OSError, ValueError):
        pass
    return len(seen) > 1 or (number == _EVENTS and bool(seen))


def _load(path: Path) -> _Document:
    document = _Document(path)
    try:
        if path.stat().st_size > _FILE_BYTES:
            raise BadAnnotation(f"has more than {_FILE_BYTES:,} bytes", "less", "split it")
        require_shallow(path)
        for image in _items(path, "images", _Image):
            _add(document, document.images, image.id, image, "image")
        categories = [*_items(path, "categories", _Category)]
        for category in categories:
            _add(document, document.names, category.id, category.name, "category")
        for region in _items(path, "annotations", _Region):
            _add_region(document, region)
        drawn = {instance.name for instances in document.regions.values() for instance in instances}
        document.roots = _roots(categories) - drawn
    except BadAnnotation as bad:
        document.refuse(bad)
        document.images.clear()
    return document


def _roots(categories: Sequence[_Category]) -> set[str]:
    """Categories that only group the others: Roboflow puts one before a project's own."""
    groups = [category.supercategory for category in categories if category.supercategory != "none"]
    return {category.name for category in categories if category.supercategory == "none" and category.name in groups}


def _add(document: _Document, known: dict[_Identity, _Known], identity: _Identity, value: _Known, what: str) -> None:
    if identity in known:
        document.refuse(BadAnnotation(f"two {what} entries have the id {identity!r}", "different ids", "renumber them"))
    known[identity] = value


def _add_region(document: _Document, region: _Region) -> None:
    image = document.images.get(region.image_id)
    where = f"annotation {region.id!r}: "
    try:
        if image is None:
            raise BadAnnotation(
                f"is of the image {region.image_id!r}, which `images` lacks", "an id of it", "correct it"
            )
        if region.category_id not in document.names:
            some = ", ".join(f"{key} {name}" for key, name in list(document.names.items())[:_LISTED]) or "none"
            what = f"has the category {region.category_id!r}, which `categories` lacks"
            raise BadAnnotation(what, f"one of {some}", "correct it")
        counts = _packed(region, (image.width, image.height))
    except BadAnnotation as bad:
        document.refuse(bad, where)
        document.bad_images.add(region.image_id)
    else:
        document.scored += region.score is not None
        shape = region.segmentation
        is_rectangle = isinstance(shape, list) and len(shape) == 1 and is_box(shape[0])
        found = Instance(document.names[region.category_id], counts, is_rectangle)
        document.regions.setdefault(region.image_id, []).append(found)


def _packed(region: _Region, size: tuple[int, int]) -> bytes:
    shape = region.segmentation
    if not shape:
        raise BadAnnotation("has no segmentation", "polygons or run lengths", "boxes tell no pixels: draw its outline")
    if isinstance(shape, list):
        return pack_polygons(shape, size)
    if tuple(shape.size) != (size[1], size[0]):
        raise BadAnnotation(f"run lengths of {shape.size}", f"[{size[1]}, {size[0]}], as its image", "export it again")
    return pack_run_lengths(parse_counts(shape.counts) if isinstance(shape.counts, str) else shape.counts, size)


def _items(path: Path, key: str, model: type[Model]) -> Iterator[Model]:
    """The entries of one list, one at a time, so that memory does not grow with the file."""
    number = -1
    try:
        with streaming(path) as file:
            for item in ijson.items(file, f"{key}.item", use_float=True):
                number += 1
                yield model.model_validate(item)
    except ValidationError as error:
        try:
            refuse(error)
        except BadAnnotation as bad:
            what, expected, repair = bad.words
            raise BadAnnotation(f"{key}[{number}].{what}", expected, repair) from None


def _classes(source: Source) -> Sequence[SourceClass]:
    """Classes by id, which need not start at 1; those that stand for nothing are left to the user."""
    names: dict[str, None] = {}
    for name in _documents(source):
        require_shallow(source.root / name)
        categories = [*_items(source.root / name, "categories", _Category)]
        ordered = sorted(categories, key=lambda category: (str(type(category.id)), category.id))
        roots = _roots(categories)
        names.update(dict.fromkeys(category.name for category in ordered if category.name not in roots))
    return [SourceClass(name) for name in names]


READER = Reader("coco", "COCO JSON with polygons or run lengths", _signs, _read, _classes)
