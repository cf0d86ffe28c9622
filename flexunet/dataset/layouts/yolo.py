"""YOLO segmentation: `labels/a.txt` for `images/a.jpg`, lines of `class x1 y1 x2 y2 ...` as shares; `data.yaml` or
`classes.txt`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import yaml

from flexunet.core.config.whole import Config
from flexunet.core.problems import Problem
from flexunet.dataset.annotation import Annotation, BadAnnotation, Drawn, class_id_of, paint
from flexunet.dataset.layouts.bounded import as_text, read_bytes, read_text
from flexunet.dataset.layouts.interface import Reader, Reading, Source, SourceClass
from flexunet.dataset.layouts.names import images_by_id, others_by_id
from flexunet.dataset.layouts.outlines import is_box, pack_polygons, unpack
from flexunet.dataset.layouts.pairing import annotated, pair_up

_YAML: Final = frozenset({".yaml", ".yml"})
_LABELS: Final = "labels"
# A name a line, as labelImg, Darknet and CVAT write it.
_NAME_LISTS: Final = frozenset({"classes.txt", "obj.names"})


@dataclass(frozen=True)
class Yolo(Annotation):
    """One file of labels.

    Attributes:
      path: the file.
      names: of the classes by YOLO's number, which counts no background; empty where nothing tells them, and number
        0 is then the config's first defect class.
    """

    tells_size = False

    path: Path
    names: tuple[str, ...]

    def read(self) -> bytes:
        return read_bytes(self.path)

    def draw(self, content: bytes, size: tuple[int, int], config: Config) -> Drawn:
        regions, boxes = [], []
        for number, line in enumerate(as_text(content).splitlines(), start=1):
            if line.strip():
                try:
                    class_id, polygon = self._parse(line.split(), size, config)
                    regions.append((class_id, unpack(pack_polygons([polygon], size), size)))
                    boxes.append(is_box(polygon))
                except BadAnnotation as bad:
                    raise bad.within(f"line {number}: ") from None
        return paint(regions, size, config.records.overlaps, boxes)

    def _parse(self, fields: list[str], size: tuple[int, int], config: Config) -> tuple[int, list[float]]:
        try:
            number, shares = int(fields[0]), np.array([float(field) for field in fields[1:]])
        except ValueError:
            raise BadAnnotation("has other things than numbers", "class x1 y1 x2 y2 ...", "export it again") from None
        if len(shares) == 4:
            raise BadAnnotation("is a box", "the outline of a region", "boxes tell no pixels: export segmentations")
        names = self.names or tuple(c.name for c in config.classes[1:])
        if not 0 <= number < len(names):
            raise BadAnnotation(f"has the class {number}", f"0 to {len(names) - 1}", "correct it or the list of names")
        if len(shares) % 2:
            raise BadAnnotation(f"has {len(shares)} coordinates", "x and y of each point", "export it again")
        return class_id_of(names[number], config.classes), (shares.reshape(-1, 2) * size).ravel().tolist()


def _signs(source: Source) -> str:
    labels = _labels(source)
    return next(iter(labels.values()))[0] if labels else ""


def _read(source: Source) -> Reading:
    sheets, names, problems = _names(source)
    labels = _labels(source)

    def annotation(path: Path) -> Yolo:
        return Yolo(path, names)

    reading = pair_up(source, images_by_id(source), labels, annotated(source, annotation), "label file")
    reading.read.update(sheets)
    reading.problems += problems
    empty = sum(pair.mask.stat().st_size == 0 for pair in reading.pairs if isinstance(pair.annotation, Yolo))
    if empty:
        reading.notes.append(f"{empty} images whose label file is empty are background as a whole")
    if not sheets:
        reading.notes.append(
            "no data.yaml or classes.txt names the classes: class 0 is the first of [[classes]] after the background"
        )
    return reading


def _labels(source: Source) -> dict[str, list[str]]:
    found = others_by_id(source, {".txt"})
    return {i: inside for i, names in found.items() if (inside := [name for name in names if _is_label(name)])}


def _is_label(name: str) -> bool:
    *folders, file = name.casefold().split("/")
    return _LABELS in folders and file not in _NAME_LISTS


def _names(source: Source) -> tuple[list[str], tuple[str, ...], list[Problem]]:
    """The files that name classes, the names, and what is wrong with them."""
    sheets, found = [], {}
    problems = []
    lists = [name for name in source.files.names if name.rpartition("/")[2].casefold() in _NAME_LISTS]
    for name in [*source.files.with_suffix(_YAML), *lists]:
        try:
            text = read_text(source.root / name)
            names = tuple(filter(None, map(str.strip, text.splitlines()))) if name in lists else _names_of(text)
        except BadAnnotation as bad:
            problems.append(Problem(source.root / name, *bad.words))
            continue
        if names:
            sheets.append(name)
            found[name] = names
    if len(set(found.values())) > 1:
        expected = "one list of names"
        problems.append(
            Problem(source.root / sheets[1], f"names other classes than {sheets[0]}", expected, "remove one")
        )
    return sheets, next(iter(found.values()), ()), problems


def _names_of(text: str) -> tuple[str, ...]:
    """`names` of a data.yaml, a list or a mapping from 0 on; empty if it has none."""
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())[:80]
        raise BadAnnotation(f"no valid YAML ({reason})", "YAML", "correct it") from None
    names, count = (values.get("names"), values.get("nc")) if isinstance(values, dict) else (None, None)
    if names is None:
        return ()
    listed: object = [names.get(i) for i in range(len(names))] if isinstance(names, dict) else names
    ordered = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    if not isinstance(listed, list) or len(ordered) < len(listed):
        raise BadAnnotation("has a key names that lists no words", "names: [a, b] or names: {0: a, 1: b}", "correct it")
    if isinstance(count, int) and count != len(ordered):
        raise BadAnnotation(f"has nc: {count} and {len(ordered)} names", "a name for each class", "correct one of them")
    return tuple(ordered)


def _classes(source: Source) -> list[SourceClass] | None:
    sheets, names, problems = _names(source)
    return [SourceClass(name) for name in names] if sheets and not problems else None


READER = Reader("yolo", "labels/*.txt with outlines and data.yaml, as YOLO has them", _signs, _read, _classes)
