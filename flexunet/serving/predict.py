"""Predictions on image files: pictures or annotations, and a table of areas and regions."""

import contextlib
import csv
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from flexunet.core import features
from flexunet.core.config.data import ImageConfig
from flexunet.core.config.whole import Config
from flexunet.core.disk import naming
from flexunet.core.errors import UserError
from flexunet.core.finder import AREAS_COLUMNS, AREAS_FILE, LeftOut, Tally, find_files
from flexunet.core.pictures import Picture, Refused, open_image, served_bytes
from flexunet.core.readable import IMAGE_SUFFIXES
from flexunet.core.regions import connected_regions
from flexunet.serving.client import Model, Prediction, in_order, predict_image
from flexunet.serving.exported import ServedConfig
from flexunet.serving.outputs import CannotWriteError, Output, opened, require_free
from flexunet.serving.tiling import predict_tiled
from flexunet.serving.transport import NotServedError, UnreachableError
from flexunet.serving.wire import as_strings


class OtherClassesError(UserError):
    """The model tells other classes than the config: no image of it can be shown."""


class ClassArea(TypedDict):
    """What an image shows of a class; a box is `[left, top, width, height]`. The background has none, nor regions."""

    pixels: int
    share: float
    regions: NotRequired[int]
    boxes: NotRequired[list[list[int]]]


@dataclass(frozen=True)
class Result:
    """An image's prediction, as `predict --json` tells it.

    Attributes:
      mask, overlay, annotations: the written files; None of another format.
      confidence: mean over the pixels of the probability of the class chosen there.
      classes: by name.
    """

    image: Path
    mask: Path | None
    overlay: Path | None
    annotations: Path | None
    seconds: float
    confidence: float
    classes: dict[str, ClassArea]


@dataclass(frozen=True)
class Failure:
    """An image without a prediction, and why."""

    image: Path
    reason: str


@dataclass(frozen=True)
class Job:
    """A model, what its classes look like, and how it is asked.

    Attributes:
      tiled: images larger than the model are cut by this client, keeping their scale.
      concurrency: images under way at once.
    """

    model: Model
    config: ServedConfig | Config
    tiled: bool = False
    concurrency: int = 4

    def predict(self, image: Path) -> Prediction:
        """Raises OSError or UserError where there is no answer."""
        size, encoded = self.config.image, image.read_bytes()
        picture = read_picture(encoded, size)
        if not self.tiled:
            prediction = predict_image(self.model, served_bytes(encoded, picture))
        else:
            pixels = np.asarray(picture.image.convert("RGB"))
            prediction = predict_tiled(self.model, pixels, (size.height, size.width))
            prediction = replace(prediction, class_names=self._class_names)
        if prediction.error:
            raise UserError(prediction.error)
        self._check_classes(prediction)
        return prediction

    @functools.cached_property
    def _class_names(self) -> tuple[str, ...]:
        """What the model says of itself, which the signature that tiles are asked of does not; empty from one of before
        0.2.0. A record without an image is no image: a watch leaves it out."""
        outputs = self.model.run(features.SIGNATURE_EXAMPLES, {features.INPUT_EXAMPLES: as_strings([b""])})
        names = outputs.get(features.OUTPUT_CLASS_NAMES)
        return () if names is None else tuple(name.decode() for name in names[0])

    def _check_classes(self, prediction: Prediction) -> None:
        """Class ids mean nothing under another list of classes: raises OtherClassesError."""
        names, repair = [c.name for c in self.config.classes], "give the config that it was trained with"
        if len(prediction.class_fractions) != len(names):
            counts = f"{len(prediction.class_fractions)} classes, the config {len(names)}"
            raise OtherClassesError(f"the model has {counts}: {repair}")
        if prediction.class_names and list(prediction.class_names) != names:
            told = ", ".join(prediction.class_names)
            raise OtherClassesError(f"the model's classes are {told}; the config's {', '.join(names)}: {repair}")


def image_files(paths: Sequence[Path], out: Path) -> tuple[list[Path], list[LeftOut]]:
    """The images to predict, and what folders hold besides.

    Files are taken as given, folders are searched; what lies in `out` are predictions.

    Raises:
      UserError: a path does not exist, or a folder holds no image.
    """
    images: list[Path] = []
    tally = Tally()
    for path in paths:
        found = [path]
        if path.is_dir():
            files = find_files(path, out)
            names = files.with_suffix(IMAGE_SUFFIXES)
            found = [path / name for name in names]
            for entry in files.account(names):
                tally.add(entry.why, str(path / entry.example), entry.files)
        if not path.exists() or not (found or path.resolve() == out.resolve()):
            raise UserError(f"{path}: no image here, expected a file or folder of {', '.join(sorted(IMAGE_SUFFIXES))}")
        images += found
    return images, list(tally.counted())


def predict_files(
    job: Job,
    images: Sequence[Path],
    out: Path,
    step: Callable[[float | None], None] = lambda seconds: None,
    tell: Callable[[Result], None] = lambda result: None,
    kind: str = "png",
) -> list[Failure]:
    """Writes `areas.csv`, and what `kind`, png, coco or labelme, has; returns what failed.

    `step` is called after each image with the seconds that its answer took, None if there was none; `tell` with its
    result.

    Raises:
      UserError: the server is not there, or has another model, or the disk is full: the first image tells, and so
        would all others; or `out` holds what a person may have made, under a name that would be written.
      OSError: `out` cannot be written.
    """
    require_free(kind, out, _output_stems(images))
    out.mkdir(parents=True, exist_ok=True)
    failures: list[Failure] = []
    areas_file = out / AREAS_FILE
    with (
        naming(areas_file),
        # Names of files need be no Unicode.
        areas_file.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        opened(kind, out, job.config, images) as output,
    ):
        writer = csv.writer(file)
        writer.writerow(AREAS_COLUMNS)
        # By this line the folder is known, also when the command is killed.
        file.flush()
        for answer in _answers(job, images, output):
            if isinstance(answer, Failure):
                failures.append(answer)
                step(None)
                continue
            writer.writerows(_row(answer.image, name, area) for name, area in answer.classes.items())
            tell(answer)
            step(answer.seconds)
    return failures


def _answers(job: Job, images: Sequence[Path], output: Output) -> Iterator[Result | Failure]:
    """What became of each image, in their order."""
    with contextlib.closing(in_order(job.predict, images, job.concurrency)) as answers:
        for image, stem, answer in zip(images, _output_stems(images), answers, strict=True):
            try:
                prediction = answer.result()
                pixels = read_picture(image.read_bytes(), job.config.image).image
                written = output.write(image, stem, pixels, prediction.class_ids)
            except (UnreachableError, NotServedError, OtherClassesError, CannotWriteError):
                raise
            # Whatever goes wrong with an image is named and stops none of the others.
            except Exception as error:  # noqa: BLE001
                yield Failure(image, _first_line(error))
            else:
                areas = _areas(prediction.class_ids, job.config)
                yield Result(image, *written, prediction.seconds, prediction.confidence, areas)


def read_picture(encoded: bytes, settings: ImageConfig) -> Picture:
    """An image's file as ingest reads it.

    Raises:
      UserError: in the words in which ingest refuses it.
    """
    try:
        return open_image(encoded, settings)
    except Refused as refused:
        raise UserError(str(refused.words)) from None


def _output_stems(images: Sequence[Path]) -> Iterator[str]:
    """The files' stems; where several have one, behind as many folders as tell them apart: `left-001`. What no folder
    tells apart gets a number, so that nothing is overwritten.
    """
    alike = Counter(image.stem for image in images)
    paths = [(*(image.parent.resolve().parts[1:] if alike[image.stem] > 1 else ()), image.stem) for image in images]
    by_stem: dict[str, list[tuple[str, ...]]] = {}
    for path in paths:
        by_stem.setdefault(path[-1], []).append(path)
    depths = {stem: _depth(of_stem) for stem, of_stem in by_stem.items()}
    names = ["-".join(path[-depths[path[-1]] :]) for path in paths]
    taken: set[str] = set()
    reserved = {*names}
    for name in names:
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        stem = name if name not in taken else next(n for n in numbered if n not in taken | reserved)
        taken.add(stem)
        yield stem


def _depth(paths: Sequence[tuple[str, ...]]) -> int:
    """The fewest parts, counted from the end, that tell apart as many of the paths as can be."""
    return max(range(1, max(map(len, paths)) + 1), key=lambda depth: len({path[-depth:] for path in paths}))


def _areas(class_ids: NDArray[np.uint8], config: ServedConfig | Config) -> dict[str, ClassArea]:
    """By class; the background's regions say nothing and are left out."""
    pixels = np.bincount(class_ids.ravel(), minlength=len(config.classes))
    areas: dict[str, ClassArea] = {}
    for class_id, (segmentation_class, count) in enumerate(zip(config.classes, pixels, strict=False)):
        area: ClassArea = {"pixels": int(count), "share": round(count / class_ids.size, 6)}
        if class_id != features.BACKGROUND_ID:
            boxes = [[int(side) for side in box] for box in connected_regions(class_ids == class_id).boxes()]
            area["regions"], area["boxes"] = len(boxes), boxes
        areas[segmentation_class.name] = area
    return areas


def _row(image: Path, name: str, area: ClassArea) -> tuple[str | int, ...]:
    boxes = "; ".join(" ".join(map(str, box)) for box in area.get("boxes", ()))
    return str(image), name, area["pixels"], f"{area['share']:.6f}", area.get("regions", ""), boxes


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
