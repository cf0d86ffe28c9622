"""What a served version said of images that it never learnt from: the numbers that served images are held against.

They are the images of `eval` and `test` in the records of its run, asked of the model once and kept: the function that
makes their numbers makes those of watched images.
"""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from flexunet.core.errors import UserError
from flexunet.core.features import (
    INPUT_IMAGE_BYTES,
    SIGNATURE_SERVING,
    SPLIT_EVAL,
    SPLIT_TEST,
)
from flexunet.dataset.protos import example_pb2 as pb
from flexunet.live.observe import Seen, answers_of, seen
from flexunet.live.store import read_lines, write_lines
from flexunet.serving.exported import exported_config
from flexunet.serving.local_model import LocalModel
from flexunet.serving.versions import version_hash
from flexunet.serving.wire import as_strings, tfrecords

MOST_IMAGES: Final = 1000
_SPLITS: Final = (SPLIT_EVAL, SPLIT_TEST)


def reference_of(
    version: Path,
    kept_in: Path,
    records: Callable[[], Path],
    progress: Callable[[str, int], Callable[..., None]] = lambda what, steps: lambda: None,
) -> list[Seen]:
    """The numbers of at most `MOST_IMAGES` images.

    Args:
      version: folder of the served version, with a number for its name.
      kept_in: folder of the numbers that were made once, by the model; it is made.
      records: gives a folder of records with the splits `eval` and `test`; called where they are needed.
      progress: starts a bar of so many steps and gives what moves it.

    Raises:
      UserError: no records, or the model cannot be run.
    """
    kept = reference_file(version, kept_in)
    if not kept.is_file():
        images = [*_images(records(), exported_config(version).records.image)]
        step = progress("asking the model of images that it never learnt from", len(images))
        kept_in.mkdir(parents=True, exist_ok=True)
        write_lines(kept, [*_asked(version, images, step)])
    return [*read_lines(kept)]


def reference_file(version: Path, kept_in: Path) -> Path:
    """Where the numbers of a version are kept."""
    return kept_in / f"reference-{version_hash(version)[:16]}.csv"


def _asked(version: Path, images: list[bytes], step: Callable[[], None]) -> Iterator[Seen]:
    with LocalModel(version) as model:
        for encoded in images:
            outputs = model.run(SIGNATURE_SERVING, {INPUT_IMAGE_BYTES: as_strings([encoded])})
            [answer] = answers_of(outputs)
            yield seen(encoded, answer, 0.0, 0.0, int(version.name))
            step()


def _images(records: Path, key: str) -> Iterator[bytes]:
    """Evenly from all, so that no part of a day of recording is alone."""
    files = [file for split in _SPLITS for file in sorted(_folder(records, split).glob("*.gz"))]
    if not files:
        raise UserError(f"{records}: no records of {' and '.join(_SPLITS)}, expected those of the model's run")
    # Every other one goes whenever there are too many: they are read once, and few are held.
    every, kept = 1, []
    for number, record in enumerate(_records(files)):
        if number % every == 0:
            kept.append(record)
        if len(kept) > MOST_IMAGES:
            every, kept = 2 * every, kept[::2]
    for record in kept:
        yield pb.Example.FromString(record).features.feature[key].bytes_list.value[0]


def _folder(records: Path, split: str) -> Path:
    """As TFX names a split's folder, or `flexunet ingest`."""
    of_tfx = records / f"Split-{split}"
    return of_tfx if of_tfx.is_dir() else records / split


def _records(files: list[Path]) -> Iterator[bytes]:
    for file in files:
        with gzip.open(file) as content:
            yield from tfrecords(content.read(), str(file))
