"""COCO JSON: polygons and run lengths of many images in one file; as COCO, CVAT, Label Studio and Roboflow write it."""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, NamedTuple, TypeVar
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
# What leads to `images/a.png` on another machine: `/`, `C:/`, `s3://bucket/`, and Label Studio's `/data/upload/1/`.
_ELSEWHERE: Final = re.compile(
    r"(?:[A-Za-z]:|[A-Za-z][A-Za-z0-9+.-]+://[^/]*)?/(?:data/upload/\d+/|data/local-files/\?d=)?"
)

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


class _Use(BaseModel, strict=True):
    """As much of a region as tells that its category is drawn."""

    category_id: _Identity


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
    drawn: set[str] = field(default_factory=set)
    scored: int = 0

    def refuse(self, bad: BadAnnotation, where: str = "") -> None:
        self.problems.append(Problem(self.path, *bad.within(where).words))


def _signs(source: Source) -> str:
    found = _documents(source)
    return f"{found[0]}" if found else ""


def _read(source: Source) -> Reading:
    reading, present, scored, roots, drawn = Reading(), _Present(source), 0, set[str](), set[str]()
    for name in _documents(source):
        reading.read.add(name)
        document = _load(source.root / name)
        reading.problems += document.problems
        scored += document.scored
        roots |= document.roots
        drawn |= document.drawn
        paths = {identity: _path(image.file_name) for identity, image in document.images.items()}
        strange = _strange_folders([path.parts for path in paths.values() if path.is_elsewhere], present)
        for identity, (parts, is_elsewhere) in paths.items():
            if identity not in document.bad_images:
                found = present.named(parts[strange:] if is_elsewhere else parts)
                _pair(source, reading, document, name, document.images[identity], found)
    clean = sum(isinstance(pair.annotation, Instances) and not pair.annotation.instances for pair in reading.pairs)
    if clean:
        reading.notes.append(f"{clean} images without an annotation in the JSON are background as a whole")
    if scored:
        reading.notes.append(
            f"{scored} annotations have a score, as a model's predictions do: they are taken for truth"
        )
    reading.notes += [
        f"the category {name} stands for the others, as Roboflow writes it, and is no class"
        for name in sorted(roots - drawn)
    ]
    images = set(source.files.with_suffix(IMAGE_SUFFIXES))
    reading.reasons = dict.fromkeys(images - reading.read, "images that the JSON does not list")
    seen = Counter(pair.id for pair in reading.pairs)
    for pair in [pair for pair in reading.pairs if seen[pair.id] > 1]:
        reading.problems.append(Problem(pair.mask, f"lists {pair.id}, as another entry does", "one", "merge them"))
    reading.pairs = [pair for pair in reading.pairs if seen[pair.id] == 1]
    return reading


def _pair(
    source: Source, reading: Reading, document: _Document, name: str, image: _Image, named: Sequence[str]
) -> None:
    try:
        found = _nearest(named, image.file_name, name)
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


def _nearest(found: Sequence[str], file_name: str, document: str) -> str:
    """Of the images that `file_name` could be, the one that shares most folders with the document."""
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


class _Path(NamedTuple):
    """Folders and name of an image as a document has them, and whether they are of another machine."""

    parts: tuple[str, ...]
    is_elsewhere: bool


def _path(file_name: str) -> _Path:
    path = printable(file_name).replace("\\", "/")
    leading = _ELSEWHERE.match(path)
    return _Path(_parts(path[leading.end() :] if leading else path), leading is not None)


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part not in ("", "."))


class _Present:
    """The images below a source, by the ends of their paths.

    Only names that were found are compared, so that no path leads out of the source.
    """

    def __init__(self, source: Source) -> None:
        self._root = printable(source.root.resolve().name)
        self._by_ending: dict[str, list[str]] = {}
        for name in source.files.with_suffix(IMAGE_SUFFIXES):
            *_, folder, file = f"{self._root}/{printable(name)}".split("/")
            for ending in (file, f"{folder}/{file}"):
                self._by_ending.setdefault(ending, []).append(name)

    def named(self, parts: Sequence[str]) -> list[str]:
        """Those whose paths end in `parts`, as they are written or as in addresses, with a space as %20."""
        return self._ending(parts) or self._ending(_parts(printable(unquote("/".join(parts)))))

    def _ending(self, parts: Sequence[str]) -> list[str]:
        """Below the source; else, where `parts` begin with its own name, in it."""
        some, ending = self._by_ending.get("/".join(parts[-2:]), []), "/" + "/".join(parts)
        found = [name for name in some if f"/{printable(name)}".endswith(ending)]
        return found or [name for name in some if f"/{self._root}/{printable(name)}".endswith(ending)]


def _strange_folders(paths: Sequence[Sequence[str]], present: _Present) -> int:
    """How many folders before all of these paths are another machine's: as many as most images are found without.

    The folder around an image is none: `cam2/001.png` is not `cam1/001.png`.
    """
    levels = zip(*(parts[:-2] for parts in paths), strict=False)
    shared = [*itertools.takewhile(lambda folders: len({*folders}) == 1, levels)]
    return max(range(len(shared) + 1), key=lambda count: sum(bool(present.named(parts[count:])) for parts in paths))


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
        document.roots = _roots(categories)
        document.drawn = {instance.name for instances in document.regions.values() for instance in instances}
    except BadAnnotation as bad:
        document.refuse(bad)
        document.images.clear()
    return document


def _roots(categories: Sequence[_Category]) -> set[str]:
    """Names of categories that only group others, where none is drawn: Roboflow puts one before a project's own, which
    may have the same name.
    """
    groups = [category.supercategory for category in categories if category.supercategory != "none"]
    roots = {c.id for c in categories if c.supercategory == "none" and c.name in groups}
    return {c.name for c in categories if c.id in roots} - {c.name for c in categories if c.id not in roots}


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
            raise bad.within(f"{key}[{number}].") from None


def _classes(source: Source) -> Sequence[SourceClass]:
    """Classes by id, which need not start at 1; those that stand for nothing are left to the user."""
    categories: dict[Path, list[_Category]] = {}
    for path in (source.root / name for name in _documents(source)):
        require_shallow(path)
        found = _items(path, "categories", _Category)
        categories[path] = sorted(found, key=lambda category: (str(type(category.id)), category.id))
    roots = set[str]().union(*map(_roots, categories.values()))
    if roots:
        roots -= set[str]().union(*itertools.starmap(_drawn, categories.items()))
    names = dict.fromkeys(category.name for found in categories.values() for category in found)
    return [SourceClass(name) for name in names if name not in roots]


def _drawn(path: Path, categories: Sequence[_Category]) -> set[str]:
    """Names of categories that have an annotation."""
    ids = {use.category_id for use in _items(path, "annotations", _Use)}
    return {category.name for category in categories if category.id in ids}


READER = Reader("coco", "COCO JSON with polygons or run lengths", _signs, _read, _classes)
