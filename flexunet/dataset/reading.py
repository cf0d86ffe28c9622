"""What became of the files of a span: how many were turned or converted, and what a reader of any score must know."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from flexunet.core.config.whole import Config
from flexunet.core.results.dataset import Read, Reading, SpanEntry
from flexunet.dataset.examine import Facts

_NAMED: Final = 3
# A class is suspect when more than this share of its pixels lies in rims one pixel wide, and there are that many.
_RIM_SHARE: Final = 0.5
_LEAST_RIM_PIXELS: Final = 20
# Of all pixels, the background and the largest class where the background was given another id.
_LEAST_BACKGROUND: Final = 0.01
_MOST_SHARE: Final = 0.5
# Some images of a set may have no other defects.
_BOX_SHARE: Final = 0.5
# An eighth of the range, within which 99 % of the pixels lie; the high byte of 12 bits has 16 levels.
_DARK_LEVEL: Final = 32
# Spans whose darkest or brightest levels differ by more than an eighth of the range.
_MOVED_LEVELS: Final = 32


def reading_summary(facts: Sequence[Facts], config: Config, earlier: SpanEntry | None) -> Reading:
    """What `dataset.json` says of it.

    Args:
      facts: the images of the span.
      config: the names of the classes.
      earlier: what `dataset.json` says of the span before, if there is one.
    """
    converted = Counter(f.image_kind for f in facts if not f.keeps_image)
    levels = [int(np.median([f.levels[end] for f in facts])) for end in (0, 1)]
    read: Read = {
        "turned": sum(f.turned for f in facts),
        "converted": dict(sorted(converted.items())),
        "levels": levels,
        "words": [],
    }
    read["words"] += _words(read, len(facts))
    warnings = [
        *_of_images(facts),
        *_dark(levels),
        *_rims(facts, config),
        *_inverted(facts, config),
        *_mixed(facts),
        *_drawn_otherwise(facts),
        *_moved(levels, earlier),
    ]
    return {"read": read, "warnings": warnings}


def _words(read: Read, images: int) -> Iterator[str]:
    if read["turned"]:
        yield f"{read['turned']} of {images} images were turned upright, as EXIF says; a served model turns them too"
    if read["converted"]:
        kinds = ", ".join(f"{count} {kind}" for kind, count in read["converted"].items())
        total = sum(read["converted"].values())
        yield f"{total} of {images} images were converted to PNG: {kinds}; `flexunet predict` does the same"


def _of_images(facts: Sequence[Facts]) -> Iterator[str]:
    flat = [f.pair.id for f in facts if f.is_flat]
    if flat:
        yield f"{len(flat)} images have nearly one grey level ({_some(flat)}): look at them, or set image.value_range"
    unlisted = [f.pair.id for f in facts if f.unlisted]
    if unlisted:
        yield (
            f"{len(unlisted)} images have pixels of an index that their palette does not have ({_some(unlisted)}): "
            "they are black, for a served model too; look at them, or save them with their whole palette"
        )
    doubtful = [f.pair.id for f in facts if f.turned_alone]
    if doubtful:
        yield (
            f"EXIF turns {len(doubtful)} images and not their masks, or otherwise ({_some(doubtful)}), and the sizes "
            "do not tell which way a mask was drawn: each is taken as its own EXIF says, without one as upright"
        )


def _dark(levels: Sequence[int]) -> Iterator[str]:
    if levels[1] < _DARK_LEVEL:
        yield (
            f"nearly all pixels have grey levels up to {levels[1]} of 255: were the images scaled from a camera's own "
            "range? Those of 12 or more bits are read as they are, with image.value_range"
        )


def _rims(facts: Sequence[Facts], config: Config) -> Iterator[str]:
    rims, pixels = (np.sum([getattr(f, field) for f in facts], axis=0) for field in ("rims", "pixels"))
    for segmentation_class, rim, total in zip(config.classes, rims.tolist(), pixels.tolist(), strict=True):
        if rim >= _LEAST_RIM_PIXELS and rim > _RIM_SHARE * total:
            yield (
                f"{rim / total:.0%} of {segmentation_class.name} is a rim one pixel wide between two other classes, as "
                "masks have it that were resized by interpolation: resize masks by nearest neighbour"
            )


def _inverted(facts: Sequence[Facts], config: Config) -> Iterator[str]:
    """Of two classes the background is the larger; of more, every pixel may have a name, but seldom mostly one."""
    background, *defects = np.sum([f.pixels for f in facts], axis=0).tolist()
    total = background + sum(defects)
    name, largest = config.classes[1 + int(np.argmax(defects))].name, max(defects)
    if len(defects) == 1 and largest > background:
        yield f"{name} covers {largest / total:.0%} of the pixels: are the masks inverted, black where it is?"
    elif len(defects) > 1 and largest > _MOST_SHARE * total and background < _LEAST_BACKGROUND * total:
        yield (
            f"{name} covers {largest / total:.0%} of the pixels and {config.classes[0].name} {background / total:.1%}: "
            "the first of [[classes]] is the background; do the ids of the masks begin with 1?"
        )


def _mixed(facts: Sequence[Facts]) -> Iterator[str]:
    """Masks of two tools, of which one may count the classes in another order."""
    with_defects = [f for f in facts if f.defects]
    ids = [f.pair.id for f in with_defects if f.mask_is_ids]
    if 0 < len(ids) < len(with_defects):
        yield (
            f"{len(ids)} masks hold ids ({_some(ids)}) and {len(with_defects) - len(ids)} others colours: do the ids "
            "count the classes as [[classes]] does, 0 for the first?"
        )


def _drawn_otherwise(facts: Sequence[Facts]) -> Iterator[str]:
    with_defects = [f for f in facts if f.defects]
    boxes = [f.pair.id for f in with_defects if f.boxes]
    if len(boxes) > _BOX_SHARE * len(with_defects):
        yield (
            f"the defects of {len(boxes)} of {len(with_defects)} images are rectangles ({_some(boxes)}): boxes "
            "do not tell which pixels are defect, and a model of them learns boxes; draw outlines"
        )
    painted = [f.pair.id for f in facts if f.painted]
    if painted:
        yield (
            f"{len(painted)} images show a defect in one colour, flat or as a tint ({_some(painted)}): is the mask "
            "painted into the image? A model learns the paint; take the photos as they were"
        )


def _moved(levels: Sequence[int], earlier: SpanEntry | None) -> Iterator[str]:
    if earlier is None or "read" not in earlier:
        return
    before = earlier["read"]["levels"]
    if max(abs(new - old) for new, old in zip(levels, before, strict=True)) > _MOVED_LEVELS:
        yield (
            f"grey levels reach from {levels[0]} to {levels[1]}, in span {earlier['span']} from {before[0]} to "
            f"{before[1]}: the same camera, light and image.value_range?"
        )


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_NAMED]) + (", ..." if len(ids) > _NAMED else "")
