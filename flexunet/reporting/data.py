"""`dataset.html`: what the data look like, in one file that opens anywhere: no network, no scripts, no other files."""

import io
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation

from flexunet.core.config.whole import Config
from flexunet.core.features import SPLITS
from flexunet.core.finder import LeftOut, left_out_words
from flexunet.core.fit import STRIP
from flexunet.core.results.dataset import SpanEntry
from flexunet.reporting.charts import Histogram
from flexunet.reporting.look import Variables, data_uri, environment, rgb
from flexunet.reporting.overlays import set_off

PICTURE: Final = "dataset.html"

# Of pure noise a plain thumbnail is 17 KB and its overlay 33 KB (measured; a third more as base64): 32 examples of both
# and 18 members of groups stay below 3 MB. Steel takes a fifth of that.
_THUMBNAIL_SIDE: Final = 160
# Strips may be so many times as long: no more pixels than a square, and something to see.
_LONGER: Final = 2
_JPEG_QUALITY: Final = 80
_MOST_EXAMPLES: Final = 32
_EXAMPLES_PER_CLASS: Final = 8
_GROUPS_SHOWN: Final = 3
_MEMBERS_SHOWN: Final = 6
_LINES_SHOWN: Final = 200
_TINT: Final = 0.3
_LUMINANCE: Final = (0.299, 0.587, 0.114)

_SIZES_LISTED: Final = 8
_SIZE_BINS: Final = 12
_BRIGHTNESS_EDGES: Final = tuple(range(0, 257, 16))
# In percent of an image. Defects of 0.03 % and of 30 % are both usual, so the steps are by factors of about three.
_SHARE_EDGES: Final = (0, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


@dataclass(frozen=True)
class DataImage:
    """One image of a span. Its files are read again only if it is shown.

    Attributes:
      id: as in the records.
      group: id of its group of near-duplicates.
      split: train, eval or test.
      width: of the upright image, in pixels.
      height: likewise.
      pixels: labelled pixels of each class, int64 `[C]`.
      brightness: mean grey level, 0 to 255.
      read_small: from a size, width and height, to the upright image of that size in 8-bit RGB.
      read_class_ids: gives its mask, class ids uint8 `[h, w]`.
    """

    id: str
    group: str
    split: str
    width: int
    height: int
    pixels: NDArray[np.int64]
    brightness: float
    read_small: Callable[[tuple[int, int]], Image.Image]
    read_class_ids: Callable[[], NDArray[np.uint8]]


@dataclass(frozen=True)
class Thumbnail:
    """A small JPEG as a data URI, and its size on the page."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Example:
    """One image of a class's grid: plain, and with the class tinted and every defect outlined."""

    image: DataImage
    share: float
    plain: Thumbnail
    overlay: Thumbnail


@dataclass(frozen=True)
class Group:
    """Near-duplicates: how many, in which splits, and the first few."""

    size: int
    splits: list[str]
    members: list[tuple[DataImage, Thumbnail]]


def render_picture(entry: SpanEntry, rows: Sequence[DataImage], config: Config) -> bytes:
    """The page, in UTF-8; the same input gives the same bytes.

    Args:
      entry: what `dataset.json` says of the span.
      rows: the images of that span; the files of some are read again.
      config: classes and colours.
    """
    page = environment().get_template("data.html.j2").render(_contents(entry, rows, config))
    # A path may hold bytes that are not UTF-8.
    return page.encode("utf-8", "backslashreplace")


def _contents(entry: SpanEntry, rows: Sequence[DataImage], config: Config) -> Variables:
    """The variables of the template."""
    ordered = sorted(rows, key=lambda row: row.id)
    shares = _shares(ordered, config)
    groups = _by_group(ordered)
    return {
        "entry": entry,
        "classes": config.classes,
        "splits": SPLITS,
        "pixel_shares": {split: _pixel_shares(entry["splits"][split]["pixels"]) for split in SPLITS},
        "warnings": _warnings(entry, groups),
        "problems": [*entry["skipped"], *entry["left_out"]],
        "files": left_out_words([LeftOut(**kind) for kind in entry["files"]["left_out"]], entry["files"]["read"]),
        "examples": _examples(ordered, shares, config),
        "sizes": _sizes(ordered),
        "size_plots": _size_plots(ordered),
        "brightness_plots": _brightness_plots(ordered),
        "share_plots": _share_plots(shares, config),
        "group_sizes": sorted(Counter(len(members) for members in groups.values()).items(), reverse=True),
        "largest_groups": _largest_groups(groups),
        "lines_shown": _LINES_SHOWN,
    }


def _shares(rows: Sequence[DataImage], config: Config) -> NDArray[np.float64]:
    """Share of each class in the labelled pixels of each image, `[N, C]`."""
    pixels = np.array([row.pixels for row in rows], np.float64).reshape(-1, len(config.classes))
    return pixels / np.maximum(pixels.sum(axis=1, keepdims=True), 1)


def _pixel_shares(pixels: dict[str, int]) -> dict[str, float]:
    total = max(1, sum(pixels.values()))
    return {name: count / total for name, count in pixels.items()}


def _by_group(rows: Sequence[DataImage]) -> dict[str, list[DataImage]]:
    groups: dict[str, list[DataImage]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return groups


def _splits_of(members: Sequence[DataImage]) -> list[str]:
    return [split for split in SPLITS if any(row.split == split for row in members)]


def _warnings(entry: SpanEntry, groups: dict[str, list[DataImage]]) -> list[str]:
    """What a reader must know before any score of a model trained on these data."""
    warnings = list(entry["notes"])
    if entry["leaking_groups"]:
        crossing = [group for group, members in groups.items() if len(_splits_of(members)) > 1]
        such_as = f", such as that of {crossing[0]}" if crossing else ""
        warnings.append(
            f"Leak: groups of near-duplicates in more than one split: {entry['leaking_groups']}{such_as}. "
            "Scores on eval and test partly measure memory. Ingest with --splits regroup to mend it."
        )
    if entry["splits_policy"] == "keep":
        warnings.append("The splits are the source's own (splits_policy is keep); they were not assigned by group.")
    for split in SPLITS:
        missing = [name for name, count in entry["splits"][split]["images_with"].items() if count == 0]
        if missing:
            warnings.append(f"No image of {split} shows {', '.join(missing)}: no score of that can be measured there.")
    warnings += entry["warnings"]
    noisy = len(entry["duplicates"]["different_masks"])
    if noisy:
        warnings.append(f"Label noise: exact copies with different masks: {noisy}, listed under Near-duplicates.")
    return warnings


def _examples(rows: Sequence[DataImage], shares: NDArray[np.float64], config: Config) -> list[list[Example]]:
    """Examples of each class, the largest share first; of the first 32 classes, if there are more."""
    per_class = min(_EXAMPLES_PER_CLASS, max(1, _MOST_EXAMPLES // len(config.classes)))
    return [
        [_example(rows[i], class_id, float(shares[i, class_id]), config) for i in _chosen(rows, of_class, per_class)]
        for class_id, of_class in enumerate(shares.T[:_MOST_EXAMPLES])
    ]


def _chosen(rows: Sequence[DataImage], shares: NDArray[np.float64], count: int) -> list[int]:
    """Indices of `count` images evenly between the largest and the smallest share, of different groups."""
    by_share = sorted((i for i in range(len(rows)) if shares[i] > 0), key=lambda i: (-shares[i], i))
    first_of_group: dict[str, int] = {}
    for i in by_share:
        first_of_group.setdefault(rows[i].group, i)
    candidates = list(first_of_group.values())
    places = np.linspace(0, len(candidates) - 1, min(count, len(candidates))).round().astype(int)
    return [candidates[place] for place in places]


def _example(row: DataImage, class_id: int, share: float, config: Config) -> Example:
    plain = _small_image(row)
    overlay = _overlay(plain, row.read_class_ids(), class_id, config)
    return Example(row, share, _jpeg(plain), _jpeg(overlay, sharp_colors=True))


def _small_image(image: DataImage) -> Image.Image:
    """An image whose longer side is 160 pixels, 320 for a strip; smaller images are enlarged, so that outlines show."""
    longer, shorter = max(image.width, image.height), min(image.width, image.height)
    scale = _THUMBNAIL_SIDE * (_LONGER if longer >= STRIP * shorter else 1) / longer
    return image.read_small((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def _overlay(plain: Image.Image, class_ids: NDArray[np.uint8], tinted: int, config: Config) -> Image.Image:
    """Every defect outlined from outside, so that a scratch one pixel wide still shows; class `tinted` filled too."""
    pixels = np.asarray(plain, np.float32).copy()
    opposite = set_off(pixels @ _LUMINANCE)[..., np.newaxis]
    for class_id in sorted({*np.unique(class_ids).tolist()} & {*range(1, len(config.classes))}):
        where = Image.fromarray((class_ids == class_id).astype(np.uint8) * 255)
        coverage = np.asarray(where.resize(plain.size, Image.Resampling.BOX), np.float32)[..., np.newaxis] / 255
        color = np.array(config.classes[class_id].color, np.float32)
        opacity = _TINT * coverage if class_id == tinted else np.zeros_like(coverage)
        pixels += (color - pixels) * opacity
        inside = coverage[..., 0] > 0
        outline = _grown(inside, 1) & ~inside
        # Pure blue on dark steel can hardly be seen: a rim sets it off from the steel.
        rim = _grown(inside, 2) & ~outline & ~inside
        pixels[rim] = opposite[rim]
        pixels[outline] = color
    return Image.fromarray(pixels.round().astype(np.uint8))


def _grown(region: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    return np.asarray(binary_dilation(region, iterations=pixels), np.bool_)


def _jpeg(image: Image.Image, sharp_colors: bool = False) -> Thumbnail:
    buffer = io.BytesIO()
    # JPEG halves the resolution of colour unless told not to; outlines are one pixel wide.
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0 if sharp_colors else 2, optimize=True)
    return Thumbnail(data_uri(buffer.getvalue(), "jpeg"), *image.size)


def _sizes(rows: Sequence[DataImage]) -> list[tuple[tuple[int, int], int]]:
    """Distinct (width, height) and how many images have it, the commonest first."""
    counts = Counter((row.width, row.height) for row in rows)
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _size_plots(rows: Sequence[DataImage]) -> list[Histogram]:
    """Nothing where a short list says it better."""
    if len(_sizes(rows)) <= _SIZES_LISTED:
        return []
    plots = []
    for side in ("width", "height"):
        lengths = np.array([getattr(row, side) for row in rows])
        edges = np.unique(np.linspace(lengths.min(), lengths.max() + 1, _SIZE_BINS + 1).round().astype(int))
        counts, _ = np.histogram(lengths, edges)
        plots.append(
            Histogram(side.capitalize(), "pixels", [f"{edge:,}" for edge in edges], counts.tolist(), labelled_every=4)
        )
    return plots


def _brightness_plots(rows: Sequence[DataImage]) -> list[Histogram]:
    labels = [str(edge) for edge in _BRIGHTNESS_EDGES]
    plots = []
    for split in SPLITS:
        levels = [row.brightness for row in rows if row.split == split]
        counts, _ = np.histogram(levels, _BRIGHTNESS_EDGES)
        mean = f", mean {np.mean(levels):.0f}" if levels else ""
        plots.append(Histogram(f"{split}{mean}", "grey level", labels, counts.tolist(), labelled_every=4))
    return plots


def _share_plots(shares: NDArray[np.float64], config: Config) -> list[Histogram]:
    plots = []
    for segmentation_class, of_class in zip(config.classes, shares.T, strict=True):
        counts, _ = np.histogram(100 * of_class[of_class > 0], _SHARE_EDGES)
        labels = [f"{edge:g}" for edge in _SHARE_EDGES]
        plots.append(
            Histogram(segmentation_class.name, "% of an image", labels, counts.tolist(), rgb(segmentation_class.color))
        )
    return plots


def _largest_groups(groups: dict[str, list[DataImage]]) -> list[Group]:
    several = [members for members in groups.values() if len(members) > 1]
    largest = sorted(several, key=lambda members: -len(members))[:_GROUPS_SHOWN]
    return [
        Group(
            len(members),
            _splits_of(members),
            [(row, _jpeg(_small_image(row))) for row in itertools.islice(members, _MEMBERS_SHOWN)],
        )
        for members in largest
    ]
