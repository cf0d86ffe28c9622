"""MVTec AD: `train/good/`, `test/DEFECT/`, and `ground_truth/DEFECT/000_mask.png` beside `test/`."""

from pathlib import PurePosixPath

from flexunet.core.problems import Problem
from flexunet.core.readable import IMAGE_SUFFIXES
from flexunet.dataset.annotation import plain_name
from flexunet.dataset.layouts.class_masks import ClassMasks
from flexunet.dataset.layouts.interface import Reader, Reading, Source, SourceClass
from flexunet.dataset.layouts.names import printable
from flexunet.dataset.layouts.pairing import background
from flexunet.dataset.pairs import Pair

_GOOD = "good"
_TRUTH = "ground_truth"
_PARTS = ("train", "test", _TRUTH)


def _signs(source: Source) -> str:
    folders = {tuple(parts[-3:-1]) for parts in map(_parts, source.files.with_suffix(IMAGE_SUFFIXES))}
    if {("train", _GOOD)} <= folders and any(folder[0] == _TRUTH for folder in folders if folder):
        return "train/good/ and ground_truth/"
    return ""


def _read(source: Source) -> Reading:
    """Pairs without MVTec's splits: its `train` shows no defect."""
    reading = Reading()
    images, masks = _by_part(source, reading)
    reading.read |= {*images.values(), *masks.values()}
    defects = tuple(sorted({plain_name(defect) for _, _, defect, _ in masks}))
    for key, name in images.items():
        category, part, defect, stem = key
        image, image_id = source.root / name, "/".join([*([category] if category else []), part, defect, stem])
        mask = next(
            (masks.pop(k) for s in (f"{stem}_mask", stem) if (k := (category, _TRUTH, defect, s)) in masks), None
        )
        if mask is not None:
            annotation = ClassMasks(((defect, source.root / mask),), defects)
            reading.pairs.append(Pair(image_id, image, source.root / mask, None, annotation))
        elif defect.casefold() == _GOOD:
            pair = background(source, image_id, name)
            reading.pairs.append(Pair(pair.id, pair.image, pair.mask, None, pair.annotation))
        else:
            what, expected = "image without a mask", f"ground_truth/{defect}/{stem}_mask.png"
            reading.problems.append(Problem(image, what, expected, "add it or remove this image"))
    for name in masks.values():
        what, expected = "mask without an image", "one of the same name in test/"
        reading.problems.append(Problem(source.root / name, what, expected, "add it or remove this mask"))
    reading.notes.append("the source's own splits are not used: its train/ shows no defect; images are assigned anew")
    if len(defects) > 1:
        kinds = ", ".join(defects)
        reading.notes.append(
            f"where the config has one defect class, called otherwise than {kinds}, it is all of these"
        )
    return reading


def _by_part(
    source: Source, reading: Reading
) -> tuple[dict[tuple[str, str, str, str], str], dict[tuple[str, str, str, str], str]]:
    """Names of images and of masks by category, part, defect and stem; `reading` is told of two of one stem."""
    images, masks = {}, {}
    for name in source.files.with_suffix(IMAGE_SUFFIXES):
        *category, part, defect, file = ("", "", *PurePosixPath(printable(name)).parts)
        if part.casefold() in _PARTS:
            found = masks if part.casefold() == _TRUTH else images
            key = ("/".join(category[2:]), part.casefold(), defect, PurePosixPath(file).stem)
            other = found.setdefault(key, name)
            if other != name:
                reading.read.add(name)
                what, expected = f"lies beside {PurePosixPath(other).name}, of the same stem", "one file of each stem"
                reading.problems.append(Problem(source.root / name, what, expected, "remove or rename one"))
    return images, masks


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part.casefold() for part in PurePosixPath(name).parts)


def _classes(source: Source) -> list[SourceClass]:
    _, masks = _by_part(source, Reading())
    return [SourceClass(defect) for defect in sorted({defect for _, _, defect, _ in masks})]


READER = Reader(
    "mvtec",
    "train/good/, test/DEFECT/ and ground_truth/DEFECT/, as MVTec AD has them",
    _signs,
    _read,
    _classes,
    stronger_than=("folders", "class-masks"),
)
