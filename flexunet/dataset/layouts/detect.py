"""Which layout a source has: each reader looks for its signs, and exactly one must find them."""

import os.path
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from flexunet.core.errors import UserError
from flexunet.core.finder import find_files, left_out_words, stem_and_suffix, suffix_of
from flexunet.core.problems import Problem
from flexunet.core.readable import IMAGE_SUFFIXES
from flexunet.dataset.layouts import beside, class_masks, coco, folders, labelme, mvtec, npz, severstal, voc, yolo
from flexunet.dataset.layouts.class_lists import told_classes
from flexunet.dataset.layouts.interface import Layout, Reader, Reading, Source
from flexunet.dataset.layouts.names import SPLIT_NAMES, images_by_id, masks_by_id, split_named
from flexunet.dataset.pairs import Pair

READERS: Final = {
    module.READER.name: module.READER
    for module in (folders, beside, voc, coco, labelme, yolo, severstal, mvtec, class_masks, npz)
}
_SHOWN: Final = 5
# What labelling tools write whose own form no reader knows: CVAT's XML, JSON of Label Studio, VIA, Supervisely.
_DOCUMENTS: Final = (".json", ".xml")
_LISTS: Final = frozenset({".txt", ".csv", ".json", ".lst"})


def find_layout(
    source: Path, output: Path | None = None, layout: str | None = None, no_mask_is_background: bool = False
) -> Layout:
    """What lies in a source.

    Args:
      source: the folder.
      output: where the records will lie; it may be below `source` and is left out.
      layout: a name in `READERS`; None to find out.
      no_mask_is_background: whether images that nothing tells a class of are free of defects.

    Raises:
      UserError: a folder cannot be listed, or several layouts fit.
    """
    if not source.is_dir():
        what = "not a folder" if source.exists() else "no such folder"
        return Layout("", "nothing", [], [Problem(source, what, "a folder of images and masks", "check SOURCE")])
    seen = Source(find_files(source, output), no_mask_is_background)
    return lay_out(seen, choose(seen, layout), layout)


def choose(source: Source, layout: str | None = None) -> Reader | None:
    """The reader that fits; None if none does.

    Raises:
      UserError: several fit.
    """
    names = [layout] if layout else list(READERS)
    signs = {name: words for name in names if (words := READERS[name].signs(source))}
    weaker = {other for name in signs for other in READERS[name].stronger_than}
    fitting = [name for name in signs if name not in weaker]
    if len(fitting) > 1:
        seen = " and ".join(f"{name} ({signs[name]})" for name in fitting)
        choices = " or ".join(f"--layout {name}" for name in fitting)
        raise UserError(f"{source.root}: fits several layouts: {seen}; expected one: choose with {choices}")
    if fitting:
        return READERS[fitting[0]]
    # Named as the plain layout, its mistakes tell more than "unknown" does.
    has_roles = bool(masks_by_id(source)) or any("image" in name.casefold() for name in images_by_id(source))
    return READERS["folders"] if layout in (None, "folders") and has_roles else None


def lay_out(source: Source, reader: Reader | None, layout: str | None = None) -> Layout:
    """What a reader finds; without one, the problem that none fits, or not `layout`."""
    reading = reader.read(source) if reader else Reading(problems=[_unknown(source, layout)])
    pairs = sorted(reading.pairs, key=lambda pair: pair.id)
    name = reader.name if reader else ""
    masked = {pair.mask.parent.relative_to(source.root) for pair in pairs if pair.annotation is None}
    told = told_classes(source, {around for folder in masked for around in (folder, *folder.parents)})
    reading.read.update(told)
    return Layout(
        name,
        f"layout {name}: {_describe(source.root, pairs)}" if pairs else "nothing",
        pairs,
        reading.problems,
        len(reading.read),
        source.files.account(reading.read, reading.reasons),
        (*reading.notes, *_notes_on_splits(pairs), *_notes_on_lists(source, reading, pairs)),
        told,
    )


def _unknown(source: Source, layout: str | None) -> Problem:
    images = source.files.with_suffix(IMAGE_SUFFIXES)
    if layout:
        what = f"nothing of the layout {layout} here"
        return Problem(source.root, what, READERS[layout].summary, "check SOURCE, or leave --layout out")
    taken = frozenset(images)
    suffixes = Counter(suffix_of(name) or "without a suffix" for name in source.files.names if name not in taken)
    others = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(_SHOWN))
    if not images:
        expected = "images/ beside masks/ or annotations/, as in SOURCE/images/a.png and SOURCE/masks/a.png"
        repair = f"convert them to one of {', '.join(sorted(IMAGE_SUFFIXES))}, or " if others else ""
        seen = [f"among {others}"] if others else []
        seen += [words] if (words := left_out_words(source.files.left_out, 0)) else []
        what = " ".join(["no images found", "; ".join(seen)]).strip()
        return Problem(source.root, what, expected, f"{repair}check SOURCE and the names of its folders")
    beside_them = f", {others}" if others else ""
    what = f"{len(images)} images such as {images[0]}{beside_them}, and nothing that tells their classes"
    expected = "; ".join(f"{reader.name}: {reader.summary}" for reader in READERS.values())
    foreign = next(iter(source.files.with_suffix(_DOCUMENTS)), None)
    repair = f"export {foreign} anew as COCO JSON, " if foreign else ""
    return Problem(
        source.root, what, f"one of these layouts ({expected})", f"{repair}rename the folders, or say which by --layout"
    )


def _describe(root: Path, pairs: Sequence[Pair]) -> str:
    images = _folders(root, {pair.image.parent for pair in pairs})
    masks = _folders(root, {pair.mask.parent for pair in pairs if pair.mask != pair.image})
    return f"images in {_some(images)}; masks in {_some(masks)}" if masks else f"images in {_some(images)}"


def _folders(root: Path, folders_: Iterable[Path]) -> list[str]:
    names = (folder.relative_to(root).as_posix() for folder in folders_)
    return sorted("SOURCE itself" if name == "." else name for name in names)


def _some(folders_: Sequence[str]) -> str:
    return (
        ", ".join(folders_)
        if len(folders_) <= _SHOWN
        else f"{', '.join(folders_[:_SHOWN])} and {len(folders_) - _SHOWN} more"
    )


def _notes_on_lists(source: Source, reading: Reading, pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Files named after splits, as `train.txt`, may list the images of each."""
    names = [name for name in source.files.with_suffix(_LISTS) if name not in reading.read]
    lists = [name for name in names if any(map(split_named, _words(stem_and_suffix(name)[0])))]
    if not lists or any(pair.split for pair in pairs):
        return ()
    some = ", ".join(lists[:_SHOWN]) + (", ..." if len(lists) > _SHOWN else "")
    return (f"{some}: not read, though the names are those of splits; images are assigned to splits anew",)


def _notes_on_splits(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Several folders of images, none of which names a split, may be splits under names that nobody here knows; and
    names of files may begin with a split's.
    """
    if any(pair.split for pair in pairs):
        return ()
    folders_of = {pair.id.rpartition("/")[0] for pair in pairs}
    shared = os.path.commonpath(folders_of) if folders_of else ""
    below = [PurePosixPath(folder).relative_to(shared).parts for folder in folders_of]
    tops = sorted({parts[0] for parts in below if parts})
    notes = []
    if len(tops) > 1:
        some = ", ".join(tops[:_SHOWN]) + (", ..." if len(tops) > _SHOWN else "")
        known = ", ".join(sorted(SPLIT_NAMES))
        notes.append(f"{len(tops)} folders ({some}), none of which names a split ({known})")
    words = {_words(pair.id)[0] for pair in pairs}
    if len(words) > 1 and all(map(split_named, words)):
        notes.append(f"names of images begin with {', '.join(sorted(words))}; only folders of such names are splits")
    return tuple(f"{note}: images are assigned to splits anew" for note in notes)


def _words(name: str) -> list[str]:
    """Of a file's name, without the digits behind them."""
    return re.split(r"[ _.\d-]+", name.rpartition("/")[2])
