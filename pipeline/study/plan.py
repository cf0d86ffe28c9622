"""A whole configuration from what a survey found, a sentence of reason beside each choice.

After nnU-Net's idea, rules over a data set's fingerprint (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z). What no
rule decides is taken from the preset neu-seg, whose parts were measured.
"""

import functools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from flexunet.core.config.data import ImageConfig
from flexunet.core.config.load import config_from, load_config
from flexunet.core.config.train import TrainerConfig
from flexunet.core.config.whole import Config
from flexunet.core.config.write import to_toml
from flexunet.core.errors import UserError
from flexunet.core.fit import ALIKE, STRIP
from flexunet.core.results.dataset import SpanEntry
from pipeline.study import survey
from pipeline.study.survey import Light, Machine
from trainer_module.cost import ModelCost, model_cost

PRESET: Final = "neu-seg"
# Of [train] and [model]: what a rule decides, or what is of one training alone.
_RULED: Final = (
    *("epochs", "batch_size", "max_seconds", "early_stopping_patience", "class_weights"),
    *("num_layers", "base_filters", "symmetries", "horizontal_flip", "vertical_flip", "brighten", "contrast"),
)
Fit = Literal["stretch", "pad", "tile"]
# Images a second that a training sees.
Rate = Callable[[Config], float]
# Of the longer side: a smaller image costs less and shows less.
_SIDES: Final = (96, 128, 160, 192, 224, 256, 320, 384, 448, 512)
# What a model that never errs must keep on the way to its size and back.
_LEAST_CEILING: Final = 0.95
# The same where seconds are few.
_LOWEST_CEILING: Final = 0.8
_STEP: Final = 16
_SMALLEST_BRIDGE: Final = 8
_DEEPEST: Final = 5
# Side of the tiles of images whose defects no size above shows.
_TILE: Final = 256
# Sections that are a plan's or the records' alone, and what of [image] tells how files are read.
_PLANNED: Final = {"classes", "image", "model", "train", "augment", "tune"}
_OF_THE_IMAGES: Final = {"max_pixels", "pixel_size", "value_range"}
# Of [train]: how it runs, which no recipe decides.
_OF_THE_MACHINE: Final = {
    *("seed", "precision", "jit_compile", "deterministic", "cache_megabytes", "disk_cache_megabytes", "warm_start"),
    "preview_images",
}
_FILTERS: Final = (8, 12, 16, 24, 32)


@dataclass(frozen=True)
class _Enough:
    """What a training should see: each image so many times, and so many in all, since few images need steps as well."""

    passes: int
    images: int

    def of(self, inputs: int) -> int:
        return max(self.passes * inputs, self.images)


# Seconds beyond it buy width; below it, with the narrowest model, smaller images buy seconds.
_FOR_WIDTH: Final = _Enough(passes=20, images=8000)
_FOR_SIZE: Final = _Enough(passes=10, images=2000)
_LARGEST_BATCH: Final = 64
_FEWEST_EPOCHS: Final = 10
_MOST_EPOCHS: Final = 400
_FEWEST_STEPS: Final = 10
# Activations of a training step: the backward pass takes about as much again, and other programs live here too.
_MEMORY_SHARE: Final = 0.25
# Of a class's equal share of the defects' pixels.
_RARE_SHARE: Final = 0.25
_STRONGEST_WEIGHT: Final = 3.0
# Half as large as what lies between images, so that one looks like another and not like none.
_OF_SPREAD: Final = 0.5
_MOST_BRIGHTER: Final = 40.0
_MOST_CONTRAST: Final = 0.4
# ln of the ratio of energies: a quarter more across than along.
_DIRECTED: Final = 0.22


class Planner:
    """Chooses section by section; `values` and `reasons` grow, `reasons` by `section.key`."""

    def __init__(self, spans: Sequence[SpanEntry], seconds: float, base: Config | None = None) -> None:
        """Of `spans`, the newest first, which a run reads. What is not planned is taken from `base`, the configuration
        that ingest had.
        """
        span = spans[0]
        self._base, self._kept = base, _kept(base) if base else {}
        self.values: dict[str, Any] = {"classes": [dict(c) for c in span["classes"]]}
        if "train" in self._kept:
            # What is timed runs as what is trained.
            self.values["train"] = self._kept.pop("train")
        self.reasons: dict[str, str] = {}
        self._spans, self._seconds = spans, seconds
        # Of the classes that train shows, those of none of the images that were looked at.
        self._unseen = ""
        self._preset = load_config(PRESET)
        # Sizes that the masks allow, the smallest first, and the best possible Dice in the worst class.
        self._useful: dict[tuple[int, int], float] = {}
        if span["ignore_color"]:
            self._choose("records", "ignore_color", span["ignore_color"], "unlabelled pixels, from the records")

    def config(self) -> Config:
        """What was chosen until now, without what is kept: that fits a whole plan, and not half of one."""
        return config_from(self.values, "the plan")

    def reading(self) -> Config:
        """What tells how records are read."""
        return self._base or self.config()

    def whole(self) -> dict[str, Any]:
        """What was chosen and what is kept, by section."""
        whole = {**self.values, **self._kept}
        for name in self._kept.keys() & self.values.keys():
            whole[name] = {**self._kept[name], **self.values[name]}
        return whole

    def toml(self, heading: Sequence[str]) -> str:
        """The whole configuration as text.

        Raises:
          UserError: what is kept does not fit what was planned.
        """
        whole = self.whole()
        config_from(whole, "the plan")
        return to_toml(whole, self.reasons, heading)

    def classes_to_see(self) -> list[int]:
        """Ids of the defects that train shows."""
        return [class_id for class_id, name in enumerate(self._defects, 1) if self._pixels("train", name)]

    def note_unseen(self, looked_at: int, seen: Collection[int]) -> None:
        """What so many images that were looked at do not show of these, no size is chosen by."""
        unseen = [self._defects[class_id - 1] for class_id in self.classes_to_see() if class_id not in seen]
        if unseen:
            self._unseen = f"; none of {looked_at} images that were looked at shows {', '.join(unseen)}"

    def image_and_depth(self, ceiling: Callable[[ImageConfig], np.ndarray], aspects_differ: bool) -> None:
        """The smallest size that keeps what the masks show, if the seconds are enough: see `smaller_images`.

        Args:
          ceiling: gives the best possible Dice per class `[C]` at a size; NaN for a class that is not there.
          aspects_differ: whether images have more than one shape.
        """
        sizes, fit, reason = _candidates(self._median_size, aspects_differ)
        worst = _worst(ceiling, sizes, fit)
        keeping = [*worst][-1]
        if fit != "tile" and worst[keeping] < _LOWEST_CEILING:
            lost = f"at {keeping[0]}x{keeping[1]} a model that never errs would reach Dice {worst[keeping]:.3f}"
            sizes, fit, reason = [(_TILE, _TILE)], "tile", f"{lost} in its worst class: tiles keep the scale"
            # Nothing is resized.
            worst, keeping = dict.fromkeys(sizes, 1.0), sizes[0]
        self._useful = {size: best for size, best in worst.items() if size == keeping or best >= _LOWEST_CEILING}
        self._choose_size(keeping, "")
        self._choose("image", "fit", fit, reason)
        if fit == "tile":
            if _overlap(keeping) < ImageConfig().tile_overlap:
                self._choose("image", "tile_overlap", _overlap(keeping), "a quarter of a tile")
            self._choose("augment", "crops", True, "an image has more than the places at which it is always cut")

    def smaller_images(self, rate: Rate) -> None:
        """A smaller size where the seconds are too few, as far as masks keep most of what they show.

        The narrowest model is timed at the largest; at a smaller one it is faster by the pixels.
        """
        *_, keeping = self._useful
        enough = min(_FOR_SIZE.of(self._inputs), _MOST_EPOCHS * self._inputs)
        speed = rate(self._with_filters(_FILTERS[0])) * self._cost(_FILTERS[0]).multiply_accumulates
        for size in reversed(self._useful):
            few = f"; {self._seconds:g} seconds are too few for {keeping[0]}x{keeping[1]}" if size != keeping else ""
            self._choose_size(size, few)
            if self._seen(speed / self._cost(_FILTERS[0]).multiply_accumulates) >= enough:
                break

    def _choose_size(self, size: tuple[int, int], few: str) -> None:
        height, width = self._median_size
        best = self._useful[size]
        words = f"a model that never errs would reach Dice {best:.3f} in its worst class here{few}{self._unseen}"
        if math.isnan(best):
            words = "as large as may be: none of the images that were looked at shows a defect"
        self._choose("image", "height", size[0], f"images are {height}x{width} at the median")
        self._choose("image", "width", size[1], words)
        if math.prod(size) > self._kept.get("image", {}).get("max_pixels", math.inf):
            self._choose("image", "max_pixels", math.prod(size), "images of the model's own size")
        self._depth()

    def _depth(self) -> None:
        """As deep as leaves the bridge a few pixels to look at."""
        side = min(self.values["image"]["height"], self.values["image"]["width"])
        layers = min(_DEEPEST, max(2, int(math.log2(side / _SMALLEST_BRIDGE)) + 1))
        bridge = side // 2 ** (layers - 1)
        self._choose("model", "num_layers", layers, f"the bridge sees {bridge} pixels on the shorter side")
        self._take("model")

    def batch(self, machine_memory: int) -> None:
        """As large as the preset's, less where images are few or the memory small."""
        size, inputs = self._preset.train.batch_size, self._inputs
        reason = f"as in {PRESET}"
        if inputs // size < _FEWEST_STEPS:
            size, reason = (
                min(inputs, max(2, inputs // _FEWEST_STEPS)),
                f"{inputs} {self._kind}: about {_FEWEST_STEPS} steps an epoch",
            )
        self._choose("train", "batch_size", size, reason)
        while size > 1 and size * self._cost(_FILTERS[0]).activation_bytes > _MEMORY_SHARE * machine_memory:
            size //= 2
            reason = f"activations stay below {_MEMORY_SHARE:.0%} of {machine_memory / 2**30:.0f} GiB of memory"
            self._choose("train", "batch_size", size, reason)
        self._room_for_sources()

    def _room_for_sources(self) -> None:
        """Raises the batch to the smallest that can hold the shares of `dataset.sources`."""
        chosen = self.values["train"]["batch_size"]
        for size in range(chosen, _LARGEST_BATCH + 1) if self._kept.get("dataset", {}).get("sources") else ():
            train = {**self.values["train"], "batch_size": size}
            try:
                config_from({**self.values, "dataset": self._kept["dataset"], "train": train}, "the plan")
            except UserError:
                continue
            if size > chosen:
                self._choose("train", "batch_size", size, "the smallest that holds the shares of dataset.sources")
            break

    def width_and_epochs(self, machine: Machine, rate: Rate) -> None:
        """The widest model that sees enough images in the seconds. Arithmetic alone does not tell: each is timed.

        Raises:
          UserError: no model can be trained here.
        """
        filters, image = _FILTERS[0], self.values["image"]
        images_a_second = rate(self._with_filters(filters))
        if not images_a_second:
            raise UserError(
                f"the memory is too small to train the narrowest model on {image['height']}x{image['width']} pixels, "
                "expected more: plan on another machine"
            )
        enough, room = _FOR_WIDTH.of(self._inputs), _MEMORY_SHARE * machine.memory / self.values["train"]["batch_size"]
        for wider in _FILTERS[1:]:
            if self._seen(images_a_second) < enough or self._cost(wider).activation_bytes > room:
                break
            theirs = rate(self._with_filters(wider))
            if self._seen(theirs) < enough:
                break
            filters, images_a_second = wider, theirs
        cost = self._cost(filters)
        words = f"{cost.parameters:,} parameters, {cost.multiply_accumulates / 1e9:.2f} GMAC an image"
        self._choose("model", "base_filters", filters, words)
        passes = self._seen(images_a_second) / self._inputs
        epochs = int(max(_FEWEST_EPOCHS, passes))
        where = f"a machine of {machine.gpus} GPUs" if machine.gpus else f"{machine.cores} cores"
        words = f"{self._inputs} {self._kind} at {images_a_second:.0f} a second, timed on {where}"
        if passes < _FEWEST_EPOCHS:
            words += f": {self._seconds:g} seconds are about {passes:.1f} of them, which is too few"
        self._choose("train", "epochs", epochs, words)
        ending = "the epochs may end before" if epochs >= _MOST_EPOCHS else "the schedule ends with it"
        self._choose("train", "max_seconds", self._seconds, f"what was allowed; {ending}")
        self._choose("train", "early_stopping_patience", epochs, "a schedule needs its end")

    def recipe(self) -> None:
        """Optimizer, rate and loss of the preset, and weights for classes that are rare."""
        self._take("train")
        pixels = {name: self._pixels("train", name) for name in self._defects}
        equal = sum(pixels.values()) / len(pixels)
        rare = {name: count / equal for name, count in pixels.items() if 0 < count < _RARE_SHARE * equal}
        if rare:
            weights = {name: round(min(_STRONGEST_WEIGHT, share**-0.5), 1) for name, share in rare.items()}
            words = ", ".join(f"{name} has {share:.0%}" for name, share in rare.items())
            self._choose("train", "class_weights", weights, f"of an equal share of the defects' pixels {words}")

    def augmentation(self, light: Light) -> None:
        """Symmetries that the images have themselves, and half of the differences that lie between them."""
        if _turned(light):
            self._choose("augment", "symmetries", True, "the images have no direction of their own in common")
        else:
            runs = "from left to right" if light.direction < 0 else "from top to bottom"
            self._choose("augment", "horizontal_flip", True, f"texture runs {runs}: mirrored, not turned")
            self._choose("augment", "vertical_flip", True, "likewise")
        self._take("augment")
        brighter = round(min(_MOST_BRIGHTER, _OF_SPREAD * light.brightness), 1)
        self._choose("augment", "brighten", brighter, f"images differ by {light.brightness:.1f} grey levels")
        contrast = round(min(_MOST_CONTRAST, _OF_SPREAD * light.contrast), 2)
        self._choose("augment", "contrast", contrast, f"their contrast differs by {light.contrast:.0%}")

    def answers(self, light: Light) -> None:
        """The mean over as many symmetries as the images have themselves, where the preset takes it."""
        square = self.values["image"]["height"] == self.values["image"]["width"]
        most = min(self._preset.serving.symmetries, 8 if square and _turned(light) else 4)
        if most > 1:
            words = f"mean over the {most} symmetries it trains with, so many times as long an answer; 1 is the fastest"
            self._choose("serving", "symmetries", most, words)

    def gate(self) -> None:
        """What only the user knows keeps its default; what `test` cannot tell is said."""
        yours = self._kept.get("gate", {})
        if "min_foreground_dice" not in yours:
            bound = type(self._preset.gate)().min_foreground_dice
            self._choose("gate", "min_foreground_dice", bound, "only you know what a model must reach")
        unmeasured = [name for name in self._defects if not self._pixels("test", name)]
        if unmeasured and "allow_unmeasured" not in yours:
            self._choose("gate", "allow_unmeasured", unmeasured, "not a pixel of it in test: add such images")

    @property
    def _kind(self) -> str:
        return "tiles" if self.values["image"]["fit"] == "tile" else "images"

    @property
    def _inputs(self) -> int:
        """How many images, or tiles of images of the median size, an epoch trains on."""
        images = sum(span["splits"]["train"]["images"] for span in self._spans)
        image = self.config().image
        if image.fit != "tile":
            return images
        sides = zip(self._median_size, (image.height, image.width), strict=True)
        each = [max(1, math.ceil((own - image.tile_overlap) / (side - image.tile_overlap))) for own, side in sides]
        return images * math.prod(each)

    @property
    def _median_size(self) -> list[int]:
        return self._spans[0]["median_size"]

    @property
    def _defects(self) -> list[str]:
        return [c["name"] for c in self._spans[0]["classes"][1:]]

    def _pixels(self, split: str, name: str) -> int:
        return sum(span["splits"][split]["pixels"].get(name, 0) for span in self._spans)

    def _take(self, section: str) -> None:
        """What the preset sets and no rule decides."""
        preset = getattr(self._preset, section)
        for key in sorted(preset.model_fields_set - {*_RULED}, key=[*type(preset).model_fields].index):
            self._choose(section, key, getattr(preset, key), f"as in {PRESET}")

    def _choose(self, section: str, key: str, value: Any, reason: str) -> None:
        self.values.setdefault(section, {})[key] = value
        self.reasons[f"{section}.{key}"] = reason

    def _seen(self, images_a_second: float) -> float:
        """How many images the seconds train on, the same one again and again, up to `_MOST_EPOCHS` times."""
        return min(self._seconds * images_a_second, _MOST_EPOCHS * self._inputs)

    def _with_filters(self, filters: int) -> Config:
        return config_from({**self.values, "model": {**self.values["model"], "base_filters": filters}}, "the plan")

    def _cost(self, filters: int) -> ModelCost:
        """Of one image."""
        config = self._with_filters(filters)
        return _cost_of_one(
            TrainerConfig(classes=config.classes, image=config.image, model=config.model).model_dump_json()
        )


@functools.cache
def _cost_of_one(config: str) -> ModelCost:
    return model_cost(TrainerConfig.model_validate_json(config), 1)


def plan_for(planner: Planner, data: Path) -> None:
    """Looks at records and machine, and makes every choice.

    Raises:
      UserError: no records.
    """
    wanted = planner.classes_to_see()
    pairs, seen = survey.read_pairs(data, planner.reading(), wanted)
    planner.note_unseen(len(pairs), seen)
    aspects = [pair.class_ids.shape[0] / pair.class_ids.shape[1] for pair in pairs]
    count = len(planner.values["classes"])
    differ = max(aspects) > ALIKE * min(aspects)
    planner.image_and_depth(lambda image: survey.ceiling(pairs, image, count), differ)
    planner.recipe()
    machine, rate = survey.this_machine(), _timed_once()
    planner.batch(machine.memory)
    planner.smaller_images(rate)
    planner.batch(machine.memory)
    planner.width_and_epochs(machine, rate)
    light = survey.light_of(pairs)
    planner.augmentation(light)
    planner.answers(light)
    planner.gate()


def _timed_once() -> Rate:
    rates: dict[str, float] = {}

    def rate(config: Config) -> float:
        key = config.model_dump_json()
        if key not in rates:
            rates[key] = survey.images_a_second(config)
        return rates[key]

    return rate


def _kept(base: Config) -> dict[str, Any]:
    """Of a configuration what it sets and no plan decides."""
    parts = {"image": _OF_THE_IMAGES, "train": _OF_THE_MACHINE}
    kept = {
        name: getattr(base, name).model_dump(mode="json", include=keys, exclude_unset=True)
        for name, keys in parts.items()
    }
    others = base.model_dump(mode="json", exclude=_PLANNED, exclude_unset=True)
    others.get("serving", {}).pop("symmetries", None)
    return {**others, **{name: section for name, section in kept.items() if section}}


def _worst(
    ceiling: Callable[[ImageConfig], np.ndarray], sizes: Sequence[tuple[int, int]], fit: Fit
) -> dict[tuple[int, int], float]:
    """The best possible Dice in the worst class, of sizes up to the first that keeps what the masks show."""
    worst = {}
    for size in sizes:
        best = ceiling(ImageConfig(height=size[0], width=size[1], fit=fit, tile_overlap=_overlap(size)))[1:]
        worst[size] = float(np.nanmin(best)) if np.isfinite(best).any() else math.nan
        if worst[size] >= _LEAST_CEILING:
            break
    return worst


def _overlap(tile: tuple[int, int]) -> int:
    """Of neighbouring tiles: the default, less where they are small."""
    return min(ImageConfig().tile_overlap, min(tile) // 4)


def _turned(light: Light) -> bool:
    """Whether the images have no direction in common, so that one that is turned is like another."""
    return abs(light.direction) < max(light.directions, _DIRECTED)


def _candidates(median: Sequence[int], aspects_differ: bool) -> tuple[list[tuple[int, int]], Fit, str]:
    """Sizes, the smallest first; how images come to them; and why so."""
    height, width = median
    longest = max(height, width)
    if longest >= STRIP * min(height, width):
        side = _rounded(min(height, width, _SIDES[-1]))
        return [(side, side)], "tile", f"images are {height}x{width}: tiles keep the scale of a strip"
    sides = [side for side in _SIDES if side < longest] + [min(_rounded(longest), _SIDES[-1])]
    sizes = [(_rounded(height * side / longest), _rounded(width * side / longest)) for side in sides]
    if aspects_differ:
        return sizes, "pad", "images differ in aspect"
    return sizes, "stretch", "images are alike in aspect"


def _rounded(side: float) -> int:
    """Up to what the deepest model can halve as often as it does."""
    return int(-(-side // _STEP) * _STEP)
