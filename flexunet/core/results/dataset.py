"""`dataset.json`: what an ingest wrote, an entry for each span."""

from typing import Final, Literal, NotRequired, TypedDict

from flexunet.core.results.data import Drift

# In the folder that `flexunet live queue` writes: a QueueOrigin.
QUEUE_FILE: Final = ".queue.json"


class ClassEntry(TypedDict):
    """A class; its id is its place."""

    name: str
    color: list[int]
    """RGB, 0 to 255"""


class SplitEntry(TypedDict):
    """A split of a span."""

    images: int
    groups: int
    """of near-duplicates"""
    images_with: dict[str, int]
    """by class"""
    pixels: dict[str, int]
    """by class, at the images' own size"""
    regions: dict[str, int] | None
    """by defect class, 8-connected; None where none is lost and not every image is shrunk"""
    regions_lost: dict[str, int] | None
    """of these, those without a pixel at the model's size"""
    pixels_at_model_size: dict[str, int] | None
    """by class"""


class DifferentMasks(TypedDict):
    """Two images of the same pixels whose masks differ."""

    images: list[str]
    """their ids"""
    agreement: float
    """share of equal pixels"""


class Duplicates(TypedDict):
    """Images that occur more than once."""

    copies: int
    """exact copies of an earlier image"""
    different_masks: list[DifferentMasks]
    """the least agreement first, at most 100 of them"""


class FilesLeftOut(TypedDict):
    """Files that were not read for one reason."""

    why: str
    files: int
    example: str


class Files(TypedDict):
    """Files of the source."""

    read: int
    left_out: list[FilesLeftOut]


class Read(TypedDict):
    """How the images of a span were read."""

    turned: int
    """turned upright, as EXIF says"""
    converted: dict[str, int]
    """to PNG, by kind"""
    levels: list[int]
    """medians over the images of the grey levels below which 1 % and 99 % of the pixels lie"""
    words: list[str]


class Reading(TypedDict):
    """What was read, and what a reader must know of it."""

    read: Read
    warnings: list[str]


class ModelSize(TypedDict):
    """The size that the model sees, as the config had it at the ingest."""

    height: int
    width: int
    fit: Literal["stretch", "pad", "tile"]


class Contents(Reading):
    """What the images of a span are."""

    format: int
    classes: list[ClassEntry]
    ignore_color: list[int] | None
    """RGB of pixels that nobody labelled"""
    layout: str
    """how the source was read, in words"""
    files: Files
    notes: list[str]
    """what was guessed or not used"""
    splits_policy: Literal["keep", "regroup"]
    """whether the source's own splits were kept"""
    median_size: list[int]
    """height and width"""
    model_size: ModelSize
    images: int
    groups: int
    splits: dict[str, SplitEntry]
    metadata: list[str]
    """columns"""


class QueueOrigin(TypedDict):
    """The version whose `live queue` picked the images of a source."""

    version: int
    sha256: str
    """of its model"""
    picked: str
    """when, in UTC"""


class Summary(Contents):
    """What an ingest found, whether it wrote it or only checked it."""

    queue: NotRequired[QueueOrigin]
    """only of a source that `live queue` wrote and people corrected"""

    drift: Drift
    """of these images against those of the spans before"""
    leaking_groups: int
    """groups with images in more than one split"""
    duplicates: Duplicates
    skipped: list[str]
    """bad pairs that --skip-bad passed over"""
    left_out: list[str]
    """images that link groups which are in different splits already"""


class SpanEntry(Summary):
    """A span in its newest version."""

    span: int
    version: int
    fingerprint: str
    """of everything that decides the records' bytes"""


class Manifest(SpanEntry):
    """`dataset.json`: the newest span's entry, and all of them."""

    spans: list[SpanEntry]
