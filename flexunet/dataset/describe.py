"""Looks at a source and writes the config that fits it: classes, colours, the image's size; what only the user knows
is a comment.
"""

import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexunet.core.config.load import config_from
from flexunet.core.config.train import ModelConfig
from flexunet.core.config.write import to_toml
from flexunet.core.errors import UserError
from flexunet.core.fit import ALIKE, STRIP
from flexunet.core.headers import read_header
from flexunet.core.pictures import is_lossy
from flexunet.core.problems import DataError
from flexunet.core.readable import FIRST_LYING
from flexunet.dataset.annotation import BadAnnotation, plain_name
from flexunet.dataset.instances import LEAST_MASKS, Numbered, count_objects, numbered
from flexunet.dataset.layouts.detect import choose, lay_out
from flexunet.dataset.layouts.interface import Layout, Reader, Source, SourceClass
from flexunet.dataset.layouts.npz import count_classes
from flexunet.dataset.masks import GREYISH, STEP_OF_16_BITS
from flexunet.dataset.pairs import Pair

Color = tuple[int, int, int]
Item = TypeVar("Item")

# Okabe and Ito's, then Tol's "muted": apart for all common kinds of colour blindness. jfly.uni-koeln.de/color,
# personal.sron.nl/~pault
COLORS: Final[tuple[Color, ...]] = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)),
    *((51, 34, 136), (136, 204, 238), (68, 170, 153), (17, 119, 51), (153, 153, 51), (221, 204, 119), (204, 102, 119)),
    *((136, 34, 85), (170, 68, 153)),
)
_BACKGROUND: Final = "background"
_BLACK: Final = (0, 0, 0)
_WHITE: Final = (255, 255, 255)
_VOC_VOID: Final = (224, 224, 192)
_VOID: Final = 255
_HALF_WAY: Final = 128
_LOOKED_AT: Final = 300
_MOST_CLASSES: Final = 32
# Rarer colours are rims that somebody's tool smoothed, not classes.
_RAREST_SHARE: Final = 0.001
_LARGEST_SIDE: Final = 512


@dataclass(frozen=True)
class Described:
    """What a source tells.

    Attributes:
      layout: how it is laid out.
      classes: the defect classes, with colours.
      background: the background.
      ignore_color: of unlabelled pixels, if there are any.
      grey_threshold: what divides smoothed masks of one class, if they are such.
      height: of the model's image, in pixels.
      width: likewise.
      fit: how images come to that size.
      sizes: in words.
      unknown: what the user has to decide, a sentence each.
    """

    layout: Layout
    classes: Sequence[SourceClass]
    background: SourceClass
    ignore_color: Color | None
    grey_threshold: int | None
    height: int
    width: int
    fit: str
    sizes: str
    unknown: Sequence[str]


def describe(source: Source, layout: str | None = None) -> Described:
    """Reads the layout, some of the masks where they alone tell the classes, and the sizes of some images.

    Raises:
      DataError: there is nothing to describe.
      UserError: several layouts fit, or an annotation is damaged.
    """
    reader = choose(source, layout)
    found = lay_out(source, reader, layout)
    if reader is None or not found.pairs:
        raise DataError(found.problems)
    try:
        seen = _classes(source, reader, found.pairs)
    except BadAnnotation as bad:
        raise UserError(str(bad)) from None
    sizes = [size for pair in _some(found.pairs) if (size := _size(pair.image))]
    height, width, fit, words = _fitted(sizes)
    unknown = [
        *seen.unknown,
        *(f"{len(found.problems)} files cannot be used: ingest --check lists them",) * bool(found.problems),
    ]
    told = (seen.classes, seen.background, seen.ignore_color, seen.grey_threshold)
    return Described(found, *told, height, width, fit, words, unknown)


def write_toml(described: Described, source: Path) -> str:
    """The config as text, with comments; it loads."""
    classes = [described.background, *described.classes]
    records = {"ignore_color": list(described.ignore_color)} if described.ignore_color else {}
    records |= {"grey_threshold": described.grey_threshold} if described.grey_threshold else {}
    values = {
        "classes": [{"name": plain_name(found.name), "color": list(found.color or _BLACK)} for found in classes],
        **({"records": records} if records else {}),
        "image": {"height": described.height, "width": described.width, "fit": described.fit},
    }
    written = f"Written by `flexunet init {shlex.quote(str(source))}`."
    heading = [written, described.layout.description, *described.layout.notes]
    ending = [
        *("Only you know:", *(f"- {sentence}" for sentence in described.unknown)),
        *("- what a model must reach before it is served:", "[gate]", "min_foreground_dice = 0.5"),
    ]
    comments = {
        "records.ignore_color": "unlabelled pixels",
        "records.grey_threshold": "levels from here on are the defect",
    }
    text = to_toml(values, comments, heading, {"image": [described.sizes]}, ending)
    config_from(tomllib.loads(text), "the config that was written")
    return text


@dataclass(frozen=True)
class _Seen:
    classes: Sequence[SourceClass]
    background: SourceClass = field(default_factory=lambda: SourceClass(_BACKGROUND, _BLACK))
    ignore_color: Color | None = None
    unknown: Sequence[str] = ()
    grey_threshold: int | None = None


def _classes(source: Source, reader: Reader, pairs: Sequence[Pair]) -> _Seen:
    try:
        named = reader.classes(source)
    except BadAnnotation as bad:
        raise bad.within(f"{source.root}: ") from None
    if named is not None:
        seen = _named(named)
    elif reader.name == "npz":
        seen = _from_archives(pairs)
    else:
        seen = _from_masks([p.mask for p in pairs if not p.annotation])
    if reader.name == "severstal":
        words = "how the defects are called: names here only count; ClassId is the order"
        seen = replace(seen, unknown=[words])
    if not seen.classes:
        repair = "label some images first; where each object has a colour of its own, give all of a class the same"
        raise UserError(f"{source.root}: shows no class but the background, expected a defect: {repair}")
    return replace(seen, classes=_colored(seen))


def _colored(seen: _Seen) -> list[SourceClass]:
    """The classes with the colours that the source has, or that can be told apart."""
    taken = {seen.background.color, seen.ignore_color, *(found.color for found in seen.classes)}
    free = iter([color for color in (*COLORS, *_more_colors()) if color not in taken])
    return [SourceClass(found.name, found.color or next(free)) for found in seen.classes]


def _more_colors() -> list[Color]:
    """Colours for more classes than anybody can tell apart by colour."""
    levels = (40, 100, 160, 220)
    return [(red, green, blue) for blue in levels for red in levels for green in levels]


def _named(told: Sequence[SourceClass]) -> _Seen:
    """The classes that a source names, of which one may be the background, and some may be slips of the pen."""
    once: dict[str, SourceClass] = {}
    spellings: dict[str, list[str]] = {}
    for found in told:
        if plain_name(found.name) not in once:
            spellings.setdefault(plain_name(found.name).casefold(), []).append(found.name)
        once.setdefault(plain_name(found.name), found)
    unknown = [f"whether {' and '.join(names)} are one class" for names in spellings.values() if len(names) > 1]
    background = next((c for c in once.values() if c.name.casefold() == _BACKGROUND), SourceClass(_BACKGROUND))
    classes = [c for c in once.values() if c.name.casefold() != _BACKGROUND]
    return _Seen(classes, replace(background, color=background.color or _BLACK), unknown=unknown)


def _from_archives(pairs: Sequence[Pair]) -> _Seen:
    counts = [count_classes(pair.mask, _size(pair.image)) for pair in _some(pairs)]
    names = [f"class{number}" for number in range(1, max(counts))]
    return _Seen([SourceClass(name) for name in names], unknown=["how the classes are called: an archive has no names"])


@dataclass
class _Look:
    """What some masks hold.

    Attributes:
      grey: how many pixels have each grey level, of the masks without a colour.
      colors: how many pixels have each colour, of the others, but for those in `blurred`.
      masks: how many masks have each of these.
      numbers: of each of these masks.
      lossy: whether some are of a compression that blurs.
      deep: whether some have more than 8 bits.
      blurred: such in colour, whose colours say nothing.
      broken: why files are no pictures.
    """

    grey: Counter[int] = field(default_factory=Counter)
    colors: Counter[Color] = field(default_factory=Counter)
    masks: Counter[int | Color] = field(default_factory=Counter)
    numbers: list[Numbered] = field(default_factory=list)
    lossy: bool = False
    deep: bool = False
    blurred: list[Path] = field(default_factory=list)
    broken: list[BadAnnotation] = field(default_factory=list)

    @property
    def shows_grey(self) -> bool:
        """A mask without a defect is black in whatever format."""
        return any(level != 0 for level in self.grey)


def _look(masks: Sequence[Path]) -> _Look:
    look = _Look()
    for path in masks:
        try:
            values, counts, blurs, numbers, is_deep = _values(path)
        except _UnreadableMask as bad:
            look.broken.append(bad)
            continue
        look.lossy |= blurs
        look.deep |= is_deep
        if blurs and values.ndim > 1:
            look.blurred.append(path)
            continue
        look.numbers.append(numbers)
        if values.ndim == 1:
            found = dict(zip(values.tolist(), counts.tolist(), strict=True))
            look.grey.update(found)
        else:
            found = {(r, g, b): n for (r, g, b), n in zip(values.tolist(), counts.tolist(), strict=True)}
            look.colors.update(found)
        look.masks.update(found.keys())
    return look


def _from_masks(masks: Sequence[Path]) -> _Seen:
    """What the pixels of masks say: colours, or grey levels that are ids."""
    looked_at = list(_some(masks))
    look = _look(looked_at)
    if len(look.broken) == len(looked_at) > 0:
        raise look.broken[0]
    if look.blurred and not look.shows_grey and not look.colors:
        words = ("a lossless format", "it blurs class borders: export the masks as PNG")
        raise BadAnnotation(f"{look.blurred[0]}: a mask in colour of lossy compression", *words)
    looked = f"how the classes are called, and whether more occur: looked at {len(looked_at)} of {len(masks)} masks"
    seen = _from_colors(look.colors, looked) if look.colors else _from_grey(look, looked)
    unknown = [*seen.unknown, *_doubts(look, seen)]
    if look.shows_grey and look.colors:
        unknown.append("masks in grey levels beside masks in colours: these classes are of the colours")
    if look.blurred:
        unknown.append(f"what {len(look.blurred)} masks in colour of lossy compression show: ingest refuses them")
    if look.broken:
        unknown.append(f"what {len(look.broken)} masks show that cannot be read: ingest refuses them")
    return replace(seen, unknown=unknown)


def _doubts(look: _Look, seen: _Seen) -> Iterator[str]:
    """That a class may be no more than an object."""
    if seen.grey_threshold is not None:
        return
    values = {found.color for found in seen.classes} if look.colors else look.grey.keys() - {0, _VOID}
    alone = sum(look.masks[value] == 1 for value in values if value is not None)
    if count_objects(look.numbers):
        sign = "in each mask their numbers run from 1 on without a gap, one region each"
    elif len(look.numbers) >= LEAST_MASKS and alone > len(values) / 2:
        sign = f"{alone} of {len(values)} are in one mask alone"
    else:
        return
    yield (
        f"whether these are classes: {sign}, as where each object has a number or colour of its own; then give all "
        "objects of a class the same"
    )


def _from_grey(look: _Look, looked: str) -> _Seen:
    levels = sorted(look.grey)
    smoothed = f"whether the {len(levels)} grey levels are one class that a tool smoothed, as is assumed here"
    as_smoothed = _Seen([SourceClass("defect", _WHITE)], unknown=[looked, smoothed], grey_threshold=_HALF_WAY)
    if look.lossy:
        return as_smoothed
    if count_objects(look.numbers) and _VOID not in levels and not look.deep:
        counted = (
            f"whether the numbers 1 to {max(levels)} count objects of one class, as is assumed here: in each mask they "
            "run from 1 on without a gap, one region each; if they are classes, name them in [[classes]] and remove "
            "records.grey_threshold"
        )
        return _Seen([SourceClass("defect", _WHITE)], unknown=[looked, counted], grey_threshold=1)
    if set(levels) <= {0, _VOID}:
        return _Seen([SourceClass("defect", _WHITE)] if _VOID in levels else [], unknown=[looked])
    labelled = [level for level in levels if level != _VOID]
    ignore = _WHITE if _VOID in levels else None
    if max(labelled) < _MOST_CLASSES:
        classes = [SourceClass(f"class{number}") for number in range(1, max(labelled) + 1)]
        void = ["whether grey 255 is unlabelled, as is assumed here, or a class"] if ignore else []
        return _Seen(classes, ignore_color=ignore, unknown=[looked, *void])
    if len(levels) > _MOST_CLASSES:
        return as_smoothed
    greys = [(level, level, level) for level in levels]
    return _Seen([SourceClass(f"grey{g[0]}", g) for g in greys if g != _BLACK], unknown=[looked])


def _from_colors(colors: Counter[Color], looked: str) -> _Seen:
    total = sum(colors.values())
    common = [color for color, count in colors.most_common(_MOST_CLASSES + 2) if count >= _RAREST_SHARE * total]
    common += [color for color in colors if color not in common] if len(colors) <= _MOST_CLASSES else []
    ignore = _VOC_VOID if _VOC_VOID in common else None
    background = _BLACK if _BLACK in common else common[0]
    classes = [color for color in common if color not in (background, ignore)]
    unknown = [looked]
    if background != _BLACK:
        unknown.append(f"whether the commonest colour, {list(background)}, is the background")
    rest = sum(colors[color] for color in colors.keys() - {*classes, background, ignore})
    if rest:
        unknown.append(
            f"what {len(colors) - len(common)} rarer colours ({rest / total:.2%} of the pixels) are; rims that a tool "
            'smoothed are taken as their nearest class by mask_colors = "nearest" in [records]'
        )
    found = [SourceClass(_color_name(color), color) for color in sorted(classes)]
    return _Seen(found, SourceClass(_BACKGROUND, background), ignore, unknown)


def _color_name(color: Color) -> str:
    return "color-" + "-".join(map(str, color))


class _UnreadableMask(BadAnnotation):
    """A file that is no picture, or not a whole one."""


class _Values(NamedTuple):
    """What a mask holds.

    Attributes:
      values: its grey levels, `[V]`, or colours, `[V, 3]`.
      counts: how many pixels have each.
      blurs: whether its compression blurs what is sharp.
      numbers: its grey levels as they are, or the indices of its colours.
      is_deep: whether these have more than 8 bits, which no level divides.
    """

    values: NDArray[np.int64]
    counts: NDArray[np.int64]
    blurs: bool
    numbers: Numbered
    is_deep: bool


def _values(path: Path) -> _Values:
    try:
        encoded = path.read_bytes()
        blurs = is_lossy(encoded)
        with Image.open(BytesIO(encoded)) as image:
            pixels = _pixels(image, blurs)
            numbers = numbered(pixels if pixels.ndim == 2 else _indices(image), _VOID)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise _UnreadableMask(f"{path}: cannot be read ({reason})", "a mask", "replace it") from None
    if pixels.ndim == 2:
        values, counts = np.unique(pixels, return_counts=True)
    else:
        values, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    values = values.astype(np.int64)
    if values.max() > _VOID and (values % STEP_OF_16_BITS == 0).all():
        values //= STEP_OF_16_BITS
    if values.max() > _VOID or values.min() < 0:
        what = f"{path}: has the grey levels {values.min()} to {values.max()}"
        raise BadAnnotation(what, "a mask of 8 bits", "export it as grey PNG of 8 bits")
    return _Values(values, counts.astype(np.int64), blurs, numbers, pixels.itemsize > 1)


def _pixels(image: Image.Image, blurs: bool) -> NDArray[np.generic]:
    """Grey `[h, w]`, also of a palette and of what JPEG keeps in three channels; else RGB."""
    if _is_grey(image):
        return np.asarray(image)
    rgb = np.asarray(image.convert("RGB"))
    spread = 0 if image.mode in ("1", "P") else GREYISH if blurs else -1
    return np.asarray(image.convert("L")) if np.ptp(rgb.astype(int), axis=-1).max() <= spread else rgb


def _indices(image: Image.Image) -> NDArray[np.uint8]:
    """Of a picture in colours: those of its palette; of one without, levels that are as good where all are grey."""
    return np.asarray(image if image.mode == "P" else image.convert("L"))


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("L", "F") or image.mode.startswith("I")


def _size(path: Path) -> tuple[int, int] | None:
    """Width and height, upright; nothing of a file that is no image: ingest names it."""
    try:
        encoded = path.read_bytes()
        with Image.open(BytesIO(encoded)) as image:
            # Pillow turns TIFFs by itself.
            is_lying = read_header(encoded).orientation >= FIRST_LYING
            return (image.height, image.width) if is_lying else image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _fitted(sizes: Sequence[tuple[int, int]]) -> tuple[int, int, str, str]:
    """Height, width and fit of the model's image, and the sizes in words."""
    if not sizes:
        return 256, 256, "stretch", "No image could be opened."
    array = np.array(sizes)
    width, height = (float(side) for side in np.median(array, axis=0))
    aspects = array[:, 0] / array[:, 1]
    smallest, largest = ("x".join(map(str, corner)) for corner in (array.min(axis=0), array.max(axis=0)))
    words = f"{len(sizes)} images were looked at, {smallest} to {largest}, at the median {width:g}x{height:g}."
    if max(width, height) >= STRIP * min(width, height) and max(width, height) > _LARGEST_SIDE:
        side = _rounded(min(width, height, _LARGEST_SIDE))
        return side, side, "tile", f"{words} Strips are cut into tiles, which keeps their scale."
    scale = min(1.0, _LARGEST_SIDE / max(width, height))
    if scale < 1:
        words += ' They are made smaller, which can lose fine defects: fit = "tile" keeps the scale.'
    fit = "pad" if aspects.max() > ALIKE * aspects.min() else "stretch"
    return _rounded(height * scale), _rounded(width * scale), fit, words


def _rounded(side: float) -> int:
    """Up to what the default model can halve as often as it does."""
    step = ModelConfig().size_divisor
    return int(-(-side // step) * step)


def _some(items: Sequence[Item]) -> Sequence[Item]:
    """Takes at most `_LOOKED_AT` of them, evenly spread."""
    return items[:: max(1, -(-len(items) // _LOOKED_AT))]
