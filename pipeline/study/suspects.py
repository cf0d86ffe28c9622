"""Masks that are likely wrong: each is held against the prediction of the fold's model that never saw it."""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from flexunet.core.config.data import SegmentationClass
from flexunet.core.config.section import part_of
from flexunet.core.config.train import TrainerConfig
from flexunet.core.config.whole import Config
from flexunet.core.errors import NodeFailed, UserError
from flexunet.core.features import IGNORE_ID
from flexunet.core.files import replace_file
from flexunet.core.headers import read_header
from flexunet.core.pictures import open_image, png
from flexunet.core.results.suspects import FORMAT, Suspect, Suspects
from flexunet.reporting.gallery import Predicted
from flexunet.serving.limits import BATCH_ROWS
from flexunet.serving.outputs import opened
from pipeline.study.crossvalidation import Validated
from pipeline.study.folds import Folds
from pipeline.study.label_quality import label_quality, largest_disagreement
from pipeline.study.records import decode_record, records_of
from pipeline.study.training import read_weights
from trainer_module.batching import in_chunks
from trainer_module.export import SegmentationModule
from trainer_module.model import build_model
from transform_module import images, unfit
from transform_module.graphs import as_written


@dataclass(frozen=True)
class SuspectImage:
    """A suspect with its pictures: bytes as in the records, and class ids as grey PNG."""

    row: Suspect
    encoded: bytes
    label_png: bytes
    predicted_png: bytes

    @property
    def label(self) -> NDArray[np.uint8]:
        """Class ids uint8 `[h, w]`, those of the mask."""
        return _class_ids(self.label_png)

    def shown(self, config: TrainerConfig) -> Predicted:
        """As pages show an image."""
        upright = png(open_image(self.encoded, config.image).image)
        return Predicted([], self.row["id"], self.row["quality"], upright, self.label, _class_ids(self.predicted_png))


class _Judged(NamedTuple):
    """One image: its mask, what was predicted instead, and for each pixel the probability of the mask's class."""

    image_id: bytes
    encoded: bytes
    label: NDArray[np.uint8]
    predicted: NDArray[np.uint8]
    of_label: NDArray[np.float32]


def find_suspects(
    validated: Validated, folds: Folds, count: int, step: Callable[[], None] = lambda: None
) -> tuple[Suspects, list[SuspectImage]]:
    """Ranks all images of the folds; gives the `count` most suspect with their pictures.

    Memory holds a line for each image, and pictures of `count`.

    Args:
      validated: all folds of a recipe.
      folds: that it was trained on.
      count: how many to show.
      step: called after each image.

    Raises:
      NodeFailed: a model gives no numbers.
    """
    config = part_of(validated.arm.config, TrainerConfig)
    rows: list[Suspect] = []
    unlabelled = 0

    def labelled() -> Iterator[SuspectImage]:
        nonlocal unlabelled
        for fold, judged in _judge_all(validated.folders, folds, config):
            step()
            found = _suspect(fold, judged, config.classes)
            if found is None:
                unlabelled += 1
            else:
                rows.append(found.row)
                yield found

    shown = heapq.nsmallest(count, labelled(), key=lambda image: _order(image.row))
    rows.sort(key=_order)
    return {"format": FORMAT, "images": len(rows) + unlabelled, "unlabelled": unlabelled, "suspects": rows}, shown


def export_suspects(
    suspects: Sequence[SuspectImage], out: Path, kind: Literal["coco", "labelme"], config: Config
) -> int:
    """Writes images and the masks that they have now, to be corrected in a labelling tool.

    Returns:
      How many were left out: no annotation can say that a pixel is unlabelled.

    Raises:
      UserError: an id is no path below `out`.
      OSError: `out` cannot be written.
    """
    labels = [(suspect, suspect.label) for suspect in suspects]
    whole = [(suspect, label) for suspect, label in labels if not (label == IGNORE_ID).any()]
    files = [_file_of(suspect) for suspect, _ in whole]
    out.mkdir(parents=True, exist_ok=True)
    with opened(kind, out, config, files) as output:
        for (suspect, label), file in zip(whole, files, strict=True):
            (out / file).parent.mkdir(parents=True, exist_ok=True)
            replace_file(out / file, suspect.encoded)
            picture = open_image(suspect.encoded, config.image).image
            output.write(file, suspect.row["id"], picture, label)
    return len(suspects) - len(whole)


def _file_of(suspect: SuspectImage) -> Path:
    """Below the folder of an export, with the folders of the source."""
    file = PurePosixPath(f"{suspect.row['id']}.{read_header(suspect.encoded).kind.suffix}")
    if file.is_absolute() or ".." in file.parts:
        raise UserError(f"image {suspect.row['id']}: no name for a file, expected a path below a folder: rename it")
    return Path(file)


def _order(row: Suspect) -> tuple[float, str]:
    return row["quality"], row["id"]


def _judge_all(folders: Sequence[Path], folds: Folds, config: TrainerConfig) -> Iterator[tuple[int, _Judged]]:
    """Each image with the number of its fold, from 1."""
    for fold, folder in enumerate(folders):
        judge = _judge_of(read_weights(folder), config)
        for record in records_of(folds.records(fold)):
            image_id, encoded, *pictures = (value.numpy() for value in judge(tf.constant(record)))
            judged = _Judged(bytes(image_id), bytes(encoded), *pictures)
            if not np.isfinite(judged.of_label).all():
                raise NodeFailed(f"fold {fold + 1}: its model gives no number for {judged.image_id.decode()}")
            yield fold + 1, judged


def _judge_of(weights: list[np.ndarray], config: TrainerConfig) -> Callable[[tf.Tensor], tuple[tf.Tensor, ...]]:
    """What makes the parts of `_Judged` of a serialized record, with the symmetries that serving has."""
    model = build_model(config)
    model.set_weights(weights)
    module = SegmentationModule(model, config)

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    @as_written
    def judge(record: tf.Tensor) -> tuple[tf.Tensor, ...]:
        row, pixels, label = decode_record(record, config)
        tiles = images.fit_image(pixels, config.image)
        [predicted] = in_chunks(lambda part: (module.predict_tiles(part),), tiles, (tf.float32,), BATCH_ROWS)
        predicted = tf.ensure_shape(predicted, model.output_shape)
        own_size = unfit.unfit_probabilities(predicted, tf.shape(pixels)[:2], config.image)
        # What nobody labelled has no probability of its own.
        class_ids = tf.where(label == IGNORE_ID, tf.zeros_like(label), label)
        of_label = tf.gather(own_size, tf.cast(class_ids, tf.int32), batch_dims=2)
        return row[config.records.id], row[config.records.image], label, unfit.class_ids_of(own_size), of_label

    return judge


def _suspect(fold: int, judged: _Judged, classes: Sequence[SegmentationClass]) -> SuspectImage | None:
    """None for an image without a labelled pixel."""
    labelled = judged.label != IGNORE_ID
    if not labelled.any():
        return None
    largest = largest_disagreement(judged.label, judged.predicted)
    row: Suspect = {
        "id": judged.image_id.decode("utf-8", "replace"),
        "fold": fold,
        "quality": label_quality(judged.of_label[labelled]),
        "labelled": classes[largest.labelled].name if largest else None,
        "predicted": classes[largest.predicted].name if largest else None,
        "pixels": largest.pixels if largest else 0,
        "share": largest.pixels / int(labelled.sum()) if largest else 0.0,
    }
    masks = (png(Image.fromarray(class_ids)) for class_ids in (judged.label, judged.predicted))
    return SuspectImage(row, judged.encoded, *masks)


def _class_ids(encoded: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(encoded)))
