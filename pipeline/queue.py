"""Which watched images to label next: those that the model is least sure of, unlike each other and what is known.

Uncertainty alone picks the same odd coil fifty times. So of the least sure images those are taken whose features lie
farthest apart: the core-set of Sener and Savarese 2018, arXiv 1708.00489, by its greedy k-centre, over the mean of the
model's bottleneck.
"""

import datetime
import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from flexunet.core.config.data import ImageConfig
from flexunet.core.config.train import TrainerConfig
from flexunet.core.errors import UserError
from flexunet.core.files import write_json
from flexunet.core.pictures import open_image
from flexunet.core.results.dataset import QUEUE_FILE, QueueOrigin
from flexunet.dataset.assignment import Assignment, read_assignment
from flexunet.dataset.groups import near_duplicate_groups
from flexunet.dataset.manifest import versions
from flexunet.dataset.thumbnails import pixel_digest, thumbnail
from flexunet.serving.client import predict_image
from flexunet.serving.exported import exported_config, exported_part
from flexunet.serving.local_model import LocalModel
from flexunet.serving.outputs import opened
from flexunet.serving.versions import version_hash
from trainer_module.export import exported_weights
from trainer_module.model import bridge_of, build_model
from transform_module import images

# So many times more of the least sure images are looked at than are taken.
POOL: Final = 5


@dataclass(frozen=True)
class Candidate:
    """A watched image, some kilobytes of it: its file is read again where it is needed.

    Attributes:
      file: as a watch kept it, which may have removed it since.
      name: of the file to be, by its content.
      confidence: what the model says of it, see `flexunet.serving.client.Prediction`.
      size: width and height, upright, in pixels.
      thumbnail: float16 `[50, 50]`.
      digest: of its decoded pixels.
    """

    file: Path
    name: str
    confidence: float
    size: tuple[int, int]
    thumbnail: NDArray[np.float16]
    digest: str


@dataclass(frozen=True)
class Picked:
    """What was taken, and of the watched images how many were left out as what.

    Attributes:
      candidates: that were taken.
      unreadable: without an answer of the model.
      known: near-duplicates of the records.
      alike: near-duplicates of another one.
      gone: that their watch removed while they were looked at.
    """

    candidates: list[Candidate]
    unreadable: int
    known: int
    alike: int
    gone: int


def pick(
    version: Path,
    files: Sequence[Path],
    data: Path | None,
    count: int,
    folder: Path,
    step: Callable[[], None] = lambda: None,
) -> Picked:
    """The images to label next.

    Args:
      version: folder of the served version.
      files: watched images; two of one content count once.
      data: records whose near-duplicates are left out; None: there are none.
      count: at most so many.
      folder: gets the images that are taken, by the candidates' names.
      step: called after each file.

    Raises:
      UserError: the model is an ensemble, which has no one bottleneck.
      OSError: `folder` cannot be written.
    """
    encoder = bottleneck_of(version)
    found, unreadable, gone = _asked(version, files, step)
    found.sort(key=lambda candidate: (candidate.confidence, candidate.name))
    past = [] if data is None else [a for path in versions(data).values() if (a := read_assignment(path))]
    is_known, is_first = _told_apart(found, past)
    fresh = [candidate for candidate, wanted in zip(found, is_first & ~is_known, strict=True) if wanted]
    pool, gone_later = _held(fresh, POOL * count, folder)
    settings = exported_config(version).image
    pictures = (open_image((folder / candidate.name).read_bytes(), settings).image for candidate in pool)
    chosen = core_set(bottleneck_features(encoder, settings, pictures), count) if pool else []
    for index in {*range(len(pool))} - {*chosen}:
        (folder / pool[index].name).unlink()
    alike = int((~is_first & ~is_known).sum())
    return Picked([pool[index] for index in chosen], unreadable, int(is_known.sum()), alike, gone + gone_later)


def core_set(features: NDArray[np.floating], count: int) -> list[int]:
    """Rows of `[N, F]` in the order in which they are taken: the first, then always the one farthest from all taken."""
    nearest = np.full(len(features), np.inf)
    chosen: list[int] = []
    while len(chosen) < min(count, len(features)):
        # Of what is equally far the first, which the model is least sure of.
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, np.linalg.norm(features - features[chosen[-1]], axis=1))
        nearest[chosen] = -1
    return chosen


def bottleneck_of(version: Path) -> keras.Model:
    """The part of a version's network that leads to its bridge, as `encoder_of` gives it.

    Raises:
      UserError: the model is an ensemble.
    """
    config = exported_part(version, TrainerConfig)
    model, weights = build_model(config), exported_weights(str(version))
    if [weight.shape for weight in weights] != [tuple(variable.shape) for variable in model.weights]:
        raise UserError(f"{version}: an ensemble or an imported model has no bridge of its own, expected one of a run")
    model.set_weights(weights)
    return encoder_of(model, config)


def bottleneck_features(
    encoder: keras.Model, settings: ImageConfig, pictures: Iterable[Image.Image]
) -> NDArray[np.float32]:
    """The mean of the bridge's channels over an image, and over its tiles: `[N, F]`, of 8-bit pictures."""
    tiles = (_tiles(one, settings) for one in pictures)
    return np.stack([np.mean(encoder.predict_on_batch(of_image), axis=0) for of_image in tiles])


def encoder_of(model: keras.Model, config: TrainerConfig) -> keras.Model:
    """From what the model sees to the mean of its bridge's channels, `[N, F]`."""
    return keras.Model(model.input, keras.layers.GlobalAveragePooling2D()(bridge_of(model, config.model)))


def write_queue(picked: Picked, out: Path, kind: Literal["coco", "labelme"], version: Path) -> None:
    """What the model says of the images that `pick` put into `out`, to be corrected in a labelling tool.

    Raises:
      OSError: `out` cannot be written.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    origin: QueueOrigin = {"version": int(version.name), "sha256": version_hash(version), "picked": now}
    write_json(out / QUEUE_FILE, origin)
    names, config = [Path(candidate.name) for candidate in picked.candidates], exported_config(version)
    with LocalModel(version) as model, opened(kind, out, config, names) as output:
        for name in names:
            encoded = (out / name).read_bytes()
            class_ids = predict_image(model, encoded).class_ids
            output.write(name, name.stem, open_image(encoded, config.image).image, class_ids)


def _tiles(picture: Image.Image, settings: ImageConfig) -> tf.Tensor:
    return images.fit_image(tf.constant(np.asarray(picture.convert("RGB"))), settings)


def _held(candidates: Iterable[Candidate], most: int, folder: Path) -> tuple[list[Candidate], int]:
    """The first of them that are still there, now in `folder` too, and how many before the last of these are not."""
    held: list[Candidate] = []
    gone = 0
    for candidate in candidates:
        if len(held) == most:
            break
        try:
            shutil.copyfile(candidate.file, folder / candidate.name)
            held.append(candidate)
        except FileNotFoundError:
            gone += 1
    return held, gone


def _asked(version: Path, files: Sequence[Path], step: Callable[[], None]) -> tuple[list[Candidate], int, int]:
    """What the model says of each content, and how many files have no answer, and are gone."""
    found: dict[str, Candidate] = {}
    unreadable = gone = 0
    settings = exported_config(version).image
    with LocalModel(version) as model:
        for file in files:
            step()
            try:
                encoded = file.read_bytes()
            except FileNotFoundError:
                gone += 1
                continue
            name = hashlib.sha256(encoded).hexdigest()[:12]
            if name not in found:
                prediction = predict_image(model, encoded)
                if prediction.valid:
                    picture = open_image(encoded, settings)
                    found[name] = _candidate(
                        file, f"{name}.{picture.kind.suffix}", prediction.confidence, picture.image
                    )
                unreadable += not prediction.valid
    return [*found.values()], unreadable, gone


def _candidate(file: Path, name: str, confidence: float, image: Image.Image) -> Candidate:
    small = thumbnail(image).astype(np.float16)
    return Candidate(file, name, confidence, image.size, small, pixel_digest(image))


def _told_apart(found: Sequence[Candidate], past: Sequence[Assignment]) -> Iterator[NDArray[np.bool_]]:
    """Of each candidate: whether it is a near-duplicate of an image of the past, and whether the first of its group."""
    if not found:
        yield from (np.zeros(0, bool), np.zeros(0, bool))
        return
    # The past before them: the smallest index of a group is of the past where any of it is.
    thumbnails = np.concatenate([*(a.thumbnails for a in past), np.stack([one.thumbnail for one in found])])
    sizes = np.concatenate([*(a.sizes for a in past), np.array([one.size for one in found])])
    digests = [*(digest for a in past for digest in a.digests), *(one.digest for one in found)]
    before = len(digests) - len(found)
    labels = near_duplicate_groups(thumbnails, sizes=sizes, digests=digests)[before:]
    yield labels < before
    yield labels == np.arange(before, before + len(found))
