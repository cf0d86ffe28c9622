"""What a mask's file means: one class for each pixel, or it is refused. Nothing is rounded, snapped or guessed unless
`records.mask_colors` asks for it.

Colours are those of `[[classes]]`, exactly. Grey values are ids of classes or grey colours of classes, whichever fits;
where both fit and differ, `records.mask_values` must say which. A palette's colours are read, not its indices.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexunet.core import palette, readable
from flexunet.core.config.whole import Config
from flexunet.core.features import IGNORE_ID
from flexunet.core.pictures import Picture, Refused, open_mask
from flexunet.core.readable import Words
from flexunet.dataset.snapping import Snapped, snap

GREY_MODES: Final = frozenset({"1", "L", "LA", "I;16", "I;16L", "I;16B", "I", "F"})
_DECIDE: Final = 'set records.mask_values = "ids" or "colors"'
_CORRECT: Final = "correct the mask or the [[classes]]"
_OF_255: Final = (
    "where 255 marks unlabelled pixels, give them a colour in records.ignore_color; where it shows a class, give that "
    "the color [255, 255, 255]"
)
_OPAQUE: Final = 255
_PALETTES: Final = ("P", "PA")
_EXPORT: Final = "export the mask as grey PNG of 8 bits"
ALPHA_ALONE: Final = Words(
    "a mask that is drawn in alpha alone", "colours or grey levels", "export it without alpha, on black"
)
# JPEG's rounding of a grey pixel's channels.
GREYISH: Final = 16
# 16 bits hold each level of 8 bits so many times.
STEP_OF_16_BITS: Final = 257
_LISTED: Final = 5


class Mask(NamedTuple):
    """A mask that was understood.

    Attributes:
      class_ids: uint8 `[h, w]`, IGNORE_ID where nobody labelled; upright.
      orientation: of EXIF, by which it was turned.
      is_served: whether its file is what records hold: a PNG in the colours of `[[classes]]`.
      overlaps: of a drawn annotation, pixels on which instances of two classes lie.
      empty: of a drawn annotation, instances that cover no pixel.
      boxes: of a drawn annotation, whether all instances are rectangles.
      snapped: pixels that were taken as the class of the nearest colour, int64 `[C]`; None where none was.
      is_ids: whether grey levels, which `records.mask_values` leaves open, were read as ids and not as colours.
    """

    class_ids: NDArray[np.uint8]
    orientation: int
    is_served: bool
    overlaps: int = 0
    empty: int = 0
    boxes: bool = False
    snapped: NDArray[np.int64] | None = None
    is_ids: bool = False


class _Fit(NamedTuple):
    """Class ids by one reading of the values, and where that reading knows the value."""

    class_ids: NDArray[np.uint8]
    known: NDArray[np.bool_]


def read_mask(encoded: bytes, config: Config) -> Mask:
    """Class ids of a mask's file.

    Raises:
      Refused: says why.
    """
    if config.records.grey_threshold is not None:
        return _divided(open_mask(encoded, config.image.max_pixels), config, config.records.grey_threshold)
    picture = open_lossless(encoded, config.image.max_pixels, _threshold_advice(config))
    if config.records.mask_values != "ids":
        require_distinct_colors(picture.image)
    transparent = transparency(picture.image)
    snapped = _snapped(picture, config)
    class_ids = _class_ids(picture, config) if snapped is None else snapped.class_ids
    _require_opaque(transparent, class_ids, config)
    if snapped is not None:
        counts = count_pixels(class_ids[snapped.changed], len(config.classes))
        return Mask(class_ids, picture.orientation, False, snapped=counts)
    image = picture.image
    is_served = picture.kind is readable.PNG and image.mode == "RGB" and picture.orientation == 1
    levels = _levels(picture) if config.records.mask_values == "auto" else None
    is_ids = levels is not None and _shows_ids(levels, class_ids, config)
    return Mask(class_ids, picture.orientation, is_served and transparent is None, is_ids=is_ids)


def _divided(picture: Picture, config: Config, threshold: int) -> Mask:
    """Two classes by brightness, as their colours have it; levels between black and white are counted, since they are a
    matter of choice.
    """
    image = picture.image
    rgb = np.asarray(image.convert("RGB"), np.int64)
    if picture.bits > 8 or image.mode.startswith(("I", "F")):
        raise Refused(Words(f"a mask of {picture.bits} bits", "8 bits, as records.grey_threshold says", _EXPORT))
    if np.ptp(rgb, axis=-1).max(initial=0) > GREYISH:
        raise Refused(Words("a mask in colour", "grey levels, as records.grey_threshold says", _EXPORT))
    levels = np.asarray(image.convert("L"))
    class_ids = np.where(levels >= threshold, _brighter(config), 1 - _brighter(config)).astype(np.uint8)
    _require_opaque(transparency(image), class_ids, config)
    between = (levels != 0) & (levels != _OPAQUE)
    counts = np.bincount(class_ids[between], minlength=2).astype(np.int64)
    return Mask(class_ids, picture.orientation, False, snapped=counts if between.any() else None)


def _snapped(picture: Picture, config: Config) -> Snapped | None:
    """The nearest colours, where they were asked for and some are no class's; grey masks of ids have none."""
    image = picture.image
    is_color = image.mode not in GREY_MODES and picture.bits <= 8 and config.records.mask_values != "ids"
    is_grey = image.mode == "L" and picture.bits == 8 and config.records.mask_values == "colors"
    if config.records.mask_colors == "exact" or not (is_color or is_grey):
        return None
    snapped = snap(np.asarray(image.convert("RGB")), config)
    if snapped.refusal is not None:
        raise Refused(snapped.refusal)
    return snapped if snapped.changed.any() else None


def open_lossless(encoded: bytes, max_pixels: int, advice: str = "") -> Picture:
    """A mask's file, upright; `advice` ends what is said of a lossy one.

    Raises:
      Refused: no single whole picture, or one whose compression changes values, or whose numbers count down.
    """
    picture = open_mask(encoded, max_pixels)
    if picture.inverted:
        what = f"a mask of {picture.bits} bits whose zero is white"
        raise Refused(Words(what, "zero to be black", _EXPORT))
    if not picture.lossy:
        return picture
    name = picture.kind.name if picture.kind.plugin == "JPEG" else f"{picture.kind.name} of lossy compression"
    raise Refused(
        Words(f"a mask as {name}", "a lossless format", f"it blurs class borders: export the mask as PNG{advice}")
    )


def transparency(image: Image.Image) -> NDArray[np.uint8] | None:
    """Alpha, uint8 `[h, w]`, where the file has any that is not opaque."""
    if image.mode.startswith(("I", "F")):
        hidden = image.info.get("transparency")
        alpha = None if hidden is None else np.where(np.asarray(image) == hidden, 0, _OPAQUE).astype(np.uint8)
    elif image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    else:
        alpha = None
    return alpha if alpha is not None and (alpha != _OPAQUE).any() else None


def require_distinct_colors(image: Image.Image) -> None:
    """Indices that a palette gives one colour may be classes that it does not tell apart; Pillow pads with black.

    Raises:
      Refused: names two of them.
    """
    if image.mode not in _PALETTES:
        return
    colors: dict[tuple[int, ...], int] = {}
    table = image.getpalette() or []
    for index in np.unique(_indices(image)).tolist():
        color = tuple(table[3 * index : 3 * index + 3]) or (0, 0, 0)
        other = colors.setdefault(color, index)
        if other != index:
            what = f"a palette in which the indices {other} and {index} have one colour, RGB {color}"
            repair = 'correct the palette, or, if its indices are ids, set records.mask_values = "ids"'
            raise Refused(Words(what, "a colour for each", repair))


def _indices(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image if image.mode == "P" else image.getchannel(0))


def _require_opaque(alpha: NDArray[np.uint8] | None, class_ids: NDArray[np.uint8], config: Config) -> None:
    """What was erased may be background; that is sure only where the colour below says so too."""
    if alpha is None:
        return
    doubtful = alpha != _OPAQUE
    if config.records.ignore_color is None:
        doubtful &= (alpha != 0) | (class_ids != 0)
    if (alpha == _OPAQUE).any() and (class_ids == class_ids.flat[0]).all():
        raise Refused(ALPHA_ALONE)
    if doubtful.any():
        what = f"{int(doubtful.sum())} pixels that are transparent over a class"
        raise Refused(Words(what, "an opaque mask", "export it without alpha, background where nothing was drawn"))


def _class_ids(picture: Picture, config: Config) -> NDArray[np.uint8]:
    image, meaning = picture.image, config.records.mask_values
    if image.mode in GREY_MODES:
        return _from_grey(picture, config)
    if image.mode in _PALETTES and meaning == "ids":
        return _ids(_told_indices(image, config), config)
    if meaning == "ids":
        raise Refused(Words("a mask in colour", 'ids, as records.mask_values = "ids" says', _DECIDE))
    if picture.bits > 8:
        what = f"a mask in colours of {picture.bits} bits, of which the lower would be lost"
        raise Refused(Words(what, "8 bits", "export the mask as PNG of 8 bits"))
    return _from_colors(np.asarray(image.convert("RGB")), image, config)


def _from_colors(mask_rgb: NDArray[np.uint8], image: Image.Image, config: Config) -> NDArray[np.uint8]:
    class_ids, known = palette.class_ids_from_rgb(mask_rgb, config.classes, config.records)
    if known.all():
        return class_ids
    greys = _greys_of_palette(image, mask_rgb)
    if greys is not None and config.records.mask_values == "auto" and (by_id := _as_ids(greys, config)).known.all():
        return by_id.class_ids
    raise Refused(_unknown_colors(mask_rgb, ~known, image, config))


def _greys_of_palette(image: Image.Image, mask_rgb: NDArray[np.uint8]) -> NDArray[np.int64] | None:
    """The levels of a grey picture that was saved with a palette, as GIF must: its indices are in any order."""
    is_grey = image.mode in _PALETTES and (np.ptp(mask_rgb, axis=-1) == 0).all()
    return mask_rgb[..., 0].astype(np.int64) if is_grey else None


def _told_indices(image: Image.Image, config: Config) -> NDArray[np.uint8]:
    """Indices, unless the palette shows classes by their colours in another order, or as many grey levels that could
    be the ids as well.
    """
    indices, mask_rgb = _indices(image), np.asarray(image.convert("RGB"))
    class_ids, known = palette.class_ids_from_rgb(mask_rgb, config.classes, config.records)
    differ = class_ids != indices
    if known.all() and differ.any() and _as_ids(indices.astype(np.int64), config).known.all():
        raise Refused(_other_colors(image, int(indices[differ][0]), int(class_ids[differ][0]), config))
    greys = _greys_of_palette(image, mask_rgb)
    if greys is None or not _as_ids(greys, config).known.all():
        return indices
    differ = greys != indices
    if differ.any() and len(np.unique(greys)) == len(np.unique(indices)) > 1:
        what = f"a palette whose index {indices[differ][0]} is grey {greys[differ][0]}: either could be the id"
        raise Refused(Words(what, "a mask that means one thing", _EXPORT))
    return indices


def _other_colors(image: Image.Image, index: int, class_id: int, config: Config) -> Words:
    """Which repair keeps the indices' meaning, and what the other makes of them."""
    table, shown = image.getpalette() or [], _name(class_id, config)
    colors = ", ".join(f"{c.name} {table[3 * i : 3 * i + 3] or list(c.color)}" for i, c in enumerate(config.classes))
    what = f"a palette whose index {index} has the colour of {shown}: either could be the class"
    repair = (
        f"if its indices are the ids, give [[classes]] its colours ({colors}); if its colours are right, "
        f'records.mask_values = "colors" takes index {index} as {shown}'
    )
    return Words(what, "a mask that means one thing", repair)


def _from_grey(picture: Picture, config: Config) -> NDArray[np.uint8]:
    values = _numbers(picture)
    # PNG and TIFF spread few bits over all grey levels; who writes ids in two bits means 0 to 3.
    step = 255 // (2**picture.bits - 1) if picture.bits < 8 else 1
    by_id = _as_ids(values // step, config)
    by_color = _as_greys(values, picture, config)
    meaning = config.records.mask_values
    if meaning != "auto":
        chosen = by_id if meaning == "ids" else by_color
        if not chosen.known.all():
            raise Refused(_outside(values[~chosen.known], config))
        return chosen.class_ids
    ids_fit, colors_fit = bool(by_id.known.all()), bool(by_color.known.all())
    if ids_fit and colors_fit and not np.array_equal(by_id.class_ids, by_color.class_ids):
        raise Refused(_ambiguous(values, by_id, by_color, config))
    if not ids_fit and not colors_fit:
        raise Refused(_outside(values[~by_id.known], config))
    return by_id.class_ids if ids_fit else by_color.class_ids


def _numbers(picture: Picture) -> NDArray[np.int64]:
    """The grey values, int64 `[h, w]`; 0 and 255 of one bit."""
    image = picture.image
    if image.mode == "LA":
        if picture.bits > 8:
            raise Refused(Words("a grey mask of 16 bits with alpha", "8 bits", "export the mask as PNG of 8 bits"))
        image = image.getchannel("L")
    values = np.asarray(image.convert("L") if image.mode == "1" else image)
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.round(values)).all()):
        raise Refused(Words("a mask of fractions", "whole numbers, the ids of classes", "export the mask as PNG"))
    return values.astype(np.int64)


def _levels(picture: Picture) -> NDArray[np.int64] | None:
    """The levels of a grey mask, or of a grey palette; None of one in colours."""
    image = picture.image
    if image.mode in GREY_MODES:
        return _numbers(picture)
    return _greys_of_palette(image, np.asarray(image.convert("RGB"))) if image.mode in _PALETTES else None


def _shows_ids(values: NDArray[np.int64], class_ids: NDArray[np.uint8], config: Config) -> bool:
    """Whether a pixel of a defect, any, has another level than the colour of its class."""
    defect = np.argmax((class_ids != 0) & (class_ids != IGNORE_ID))
    class_id = class_ids.flat[defect]
    if class_id in (0, IGNORE_ID):
        return False
    color = config.classes[class_id].color
    return len({*color}) > 1 or values.flat[defect] not in (color[0], STEP_OF_16_BITS * color[0])


def _ids(values: NDArray[np.generic], config: Config) -> NDArray[np.uint8]:
    fit = _as_ids(values.astype(np.int64), config)
    if not fit.known.all():
        raise Refused(_outside(values.astype(np.int64)[~fit.known], config))
    return fit.class_ids


def _as_ids(values: NDArray[np.int64], config: Config) -> _Fit:
    """255 is allowed for unlabelled pixels where an ignore colour is configured."""
    known = (values >= 0) & (values < len(config.classes))
    if config.records.ignore_color is not None:
        known |= values == IGNORE_ID
    return _Fit(np.where(known, values, IGNORE_ID).astype(np.uint8), known)


def _as_greys(values: NDArray[np.int64], picture: Picture, config: Config) -> _Fit:
    """Grey colours of classes."""
    step = STEP_OF_16_BITS if picture.image.mode.startswith("I;16") and picture.bits == 16 else 1
    class_ids, known = np.full(values.shape, IGNORE_ID, np.uint8), np.zeros(values.shape, np.bool_)
    colors = [*((i, c.color) for i, c in enumerate(config.classes)), (IGNORE_ID, config.records.ignore_color)]
    for class_id, color in colors:
        if color is not None and len({*color}) == 1:
            here = values == color[0] * step
            class_ids[here], known = class_id, known | here
    return _Fit(class_ids, known)


def _ambiguous(values: NDArray[np.int64], by_id: _Fit, by_color: _Fit, config: Config) -> Words:
    [row, column] = np.argwhere(by_id.class_ids != by_color.class_ids)[0]
    names = [_name(int(fit.class_ids[row, column]), config) for fit in (by_id, by_color)]
    value = values[row, column]
    what = f"grey {value} is {names[0]} as an id and {names[1]} as a colour"
    return Words(what, "a mask that means one thing", _DECIDE)


def _name(class_id: int, config: Config) -> str:
    return "unlabelled" if class_id == IGNORE_ID else config.classes[class_id].name


def _outside(wrong: NDArray[np.int64], config: Config) -> Words:
    found, counts = np.unique(wrong, return_counts=True)
    listed = ", ".join(map(str, found[:_LISTED]))
    if config.records.mask_values == "colors":
        what = f"{int(counts.sum())} pixels of grey levels that are no class's colour ({listed})"
        return Words(what, f"only {_choices(config)}", _CORRECT)
    what = f"{int(counts.sum())} pixels with ids outside the classes ({listed})"
    choices = ", ".join(f"{i} {c.name}" for i, c in enumerate(config.classes))
    repair = _CORRECT
    if IGNORE_ID in found and config.records.ignore_color is None:
        repair += f"; {_OF_255}"
    return Words(what, f"greyscale class ids {choices}", repair + _threshold_advice(config, int(found[-1])))


def _threshold_advice(config: Config, highest: int = _OPAQUE) -> str:
    """How to read the levels of one class that go up to `highest`: smoothed ones, or numbers of its instances."""
    if len(config.classes) != 2:
        return ""
    level = 128 if highest >= 128 else 1
    brighter = config.classes[_brighter(config)].name
    return f"; records.grey_threshold = {level} takes levels from {level} on as {brighter}"


def _brighter(config: Config) -> int:
    """The id of the brighter of two classes; the second where their colours do not tell."""
    background, defect = (sum(c.color) for c in config.classes)
    return int(defect >= background)


def _choices(config: Config) -> str:
    return ", ".join(f"{c.name} {c.color}" for c in config.classes)


def _unknown_colors(
    mask_rgb: NDArray[np.uint8], unknown: NDArray[np.bool_], image: Image.Image, config: Config
) -> Words:
    pixels = mask_rgb[unknown]
    colors, counts = np.unique(pixels, axis=0, return_counts=True)
    commonest = colors[counts.argmax()].astype(int)
    distances = [int(np.square(commonest - np.array(c.color)).sum()) for c in config.classes]
    nearest = config.classes[int(np.argmin(distances))]
    what = (
        f"{len(pixels)} pixels of {len(colors)} colours outside the palette, most RGB {tuple(commonest.tolist())} "
        f"(nearest: {nearest.name} {nearest.color})"
    )
    repair = "correct the mask or the colours in [[classes]]"
    if config.records.ignore_color is None:
        repair += "; the colour of unlabelled pixels is told by records.ignore_color"
    if image.mode in _PALETTES:
        repair += '; if its indices are ids and its palette only for show, set records.mask_values = "ids"'
    if snap(mask_rgb, config).refusal is None:
        repair += f'; records.mask_colors = "nearest" would take these {len(pixels)} pixels as their nearest classes'
    if np.ptp(mask_rgb, axis=-1).max() <= GREYISH:
        repair += _threshold_advice(config)
    return Words(what, f"only {_choices(config)}", repair)


def count_pixels(class_ids: NDArray[np.generic], num_classes: int) -> NDArray[np.int64]:
    """Labelled pixels of each class, int64 `[C]`, of class ids of any shape."""
    return np.bincount(class_ids.ravel(), minlength=IGNORE_ID + 1)[:num_classes].astype(np.int64)


def rims(class_ids: NDArray[np.uint8], num_classes: int) -> NDArray[np.int64]:
    """Pixels of each class that lie, one pixel wide, between two other classes: int64 `[C]`.

    Interpolating ids makes such rims: halfway between 0 and 2 lies 1. Of real masks they are few.
    """
    if np.count_nonzero(np.bincount(class_ids.ravel())) < 3:
        return np.zeros(num_classes, np.int64)
    on_rim = np.zeros(class_ids.shape, np.bool_)
    for axis in (0, 1):
        before, here, after = (_shifted(class_ids, axis, shift) for shift in (0, 1, 2))
        inner = _shifted(on_rim, axis, 1)
        inner |= (before != here) & (after != here) & (before != after)
    return count_pixels(class_ids[on_rim], num_classes)


def _shifted(array: np.ndarray, axis: int, shift: int) -> np.ndarray:
    """A view without two rows or columns."""
    part = slice(shift, array.shape[axis] - 2 + shift)
    return array[part] if axis == 0 else array[:, part]
