"""Lists of classes that labelling tools put beside masks: which colour, or which number, is which class."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path, PurePath
from typing import Final

from flexunet.core.config.whole import Config
from flexunet.dataset.annotation import BadAnnotation, plain_name
from flexunet.dataset.layouts.bounded import read_text
from flexunet.dataset.layouts.interface import Source, SourceClass

LABELMAP: Final = "labelmap.txt"
_COMMAS: Final = r"(?P<red>\d{1,3})\s*,\s*(?P<green>\d{1,3})\s*,\s*(?P<blue>\d{1,3})"
_SPACES: Final = _COMMAS.replace(r"\s*,\s*", r"\s+")
# A line of each: of CVAT and Datumaro, of CamVid and CVAT's export of that name, of Kaggle's CamVid and DeepGlobe, and
# of Roboflow's semantic masks, which hold numbers.
_LINES: Final = {
    LABELMAP: re.compile(rf"(?P<name>[^:#][^:]*):\s*{_COMMAS}\s*(:.*)?"),
    "label_colors.txt": re.compile(rf"{_SPACES}\s+(?P<name>\S.*)"),
    "class_dict.csv": re.compile(rf"(?P<name>[^,]+),\s*{_COMMAS}"),
    "_classes.csv": re.compile(r"(?P<id>\d{1,3})\s*,\s*(?P<name>\S.*)"),
}


def told_classes(source: Source, folders: Collection[PurePath]) -> dict[str, list[SourceClass]]:
    """Classes with a colour or an id by the list's name; lines of any other form tell nothing.

    Args:
      source: the source.
      folders: those of masks and around them, below its root; lists elsewhere are of other masks.
    """
    found = {}
    for name in source.files.names:
        line_of = _LINES.get(name.rpartition("/")[2].casefold())
        if line_of is None or PurePath(name).parent not in folders:
            continue
        try:
            lines = read_text(source.root / name).splitlines()
        except BadAnnotation:
            continue
        told = [_told(match) for line in lines if (match := line_of.fullmatch(line.strip()))]
        if told:
            found[name] = told
    return found


def labelmap_classes(path: Path) -> list[SourceClass]:
    """The classes of CVAT's `labelmap.txt`, where it is what names them: lines of `name:red,green,blue:parts:actions`.

    Raises:
      BadAnnotation: the file cannot be read, or a line that is no comment tells no class.
    """
    lines = [line for text in read_text(path).splitlines() if (line := text.strip()) and not line.startswith("#")]
    found = [(line, _LINES[LABELMAP].fullmatch(line)) for line in lines]
    for line, match in found:
        if match is None:
            what = f"the line of {line.partition(':')[0]!r} has no colour"
            raise BadAnnotation(what, "name:red,green,blue::", "correct it")
    return [_told(match) for _, match in found if match]


def _told(line: re.Match[str]) -> SourceClass:
    fields = line.groupdict()
    if "id" in fields:
        return SourceClass(fields["name"], class_id=int(fields["id"]))
    return SourceClass(fields["name"], (int(fields["red"]), int(fields["green"]), int(fields["blue"])))


def contradictions(told: Sequence[SourceClass], config: Config, are_ids: Collection[bool]) -> list[str]:
    """Where what a list says is one class is another by the config, which has both: a clause each.

    The masks would be read without a word, and classes change places.

    Args:
      told: the list's classes.
      config: its classes are compared.
      are_ids: True where masks were read as ids, False where as colours; what tells the other is of other masks.
    """
    names = [c.name for c in config.classes]
    known = {*map(_compared, names)}
    by_color = {c.color: c.name for c in config.classes}
    found = []
    for one in told:
        if one.class_id is not None:
            ours, what = names[one.class_id] if one.class_id < len(names) else one.name, f"id {one.class_id}"
        else:
            ours, what = by_color.get(one.color, one.name) if one.color else one.name, f"RGB {one.color}"
        if (one.class_id is not None) in are_ids and _compared(one.name) in known - {_compared(ours)}:
            found.append(f"says that {what} is {one.name}, which is {ours} here")
    return found


def _compared(name: str) -> str:
    return plain_name(name).casefold()
