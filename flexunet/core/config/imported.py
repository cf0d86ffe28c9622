# pyright: standard
# INI and TOML have no types.
"""From `train_eval_infer.config` of a FlexUNet project to a configuration of ours, with every difference said.

The original reads INI and evaluates each value; what does not parse falls back to a default without a word. Here values
are literals or refused. What each key means there, and what the code did with it: docs/how-to/flexunet-projects.md.
"""

import ast
import configparser
import math
import os
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_args

from flexunet.core.config.imported_colors import (
    BINARY_PALETTE,
    DEFAULT_PALETTE,
    NO_LITERAL,
    Palette,
    named_colors,
    palette_of,
)
from flexunet.core.config.load import ConfigError, config_from
from flexunet.core.config.train import AugmentConfig, ModelConfig, TrainConfig
from flexunet.core.config.write import to_toml
from flexunet.core.errors import last_line

NETWORK: Final = "TensorFlowFlexUNet"
# The reducer gets its patience under a misspelt name, which Keras swallows: its own default is what ran.
PATIENCE_IN_EFFECT: Final = 10
# Half way from black to white, where the file has no threshold.
_HALF_WAY: Final = 128
_PREVIEW_IMAGES: Final = TrainConfig.model_fields["preview_images"]
_LARGEST_FILE: Final = 1_000_000
_LONGEST_SHOWN: Final = 80
_LARGEST: Final = 1e30
_ACTIVATIONS: Final = get_args(ModelConfig.model_fields["activation"].annotation)
# Keras' default, which the file does not say.
_ADAMW_DECAY: Final = 0.004
# Sections and keys that are read by no code of the original, or that only name its own folders and prints.
_WITHOUT_EFFECT: Final = frozenset(
    [
        "model.show_summary",
        "model.metrics",
        "dataset.class_name",
        "dataset.datasetclass",
        "debug.verbose",
        "debug.debug",
        "train.model_dir",
        "train.eval_dir",
        "train.create_backup",
        "train.save_weights_only",
        "train.metrics",
        "train.steps_per_epoch",
        "train.validation_steps",
        "train.epoch_change_infer_dir",
        "train.epoch_change_tiled_infer_dir",
        "train.sample_images_dir",
        "eval.eval_dir",
        "eval.evaluation_dir",
        "eval.batch_size",
        "test.batch_size",
        "valid.batch_size",
        "mask.mask_datatype",
        "mask.blur_size",
        "infer.output_dir",
        "tiledinfer.output_dir",
        "generator.debug",
        "generator.verbose",
        "generator.generated_images_dir",
        "generator.generated_masks_dir",
        "model.generator",
        "model.image_channels",
        "model.num_classes",
    ]
)
_OUT_OF_SCOPE: Final = ("infer3d", "segmentation", "transformer", "preprocessor", "inspect", "datasetclass")


@dataclass(frozen=True)
class Imported:
    """What came of a file.

    Attributes:
      toml: the configuration, which `load_config` takes.
      notes: a sentence for each key that is not exactly as before.
      commands: what to call next, with the file's own folders.
    """

    toml: str
    notes: tuple[str, ...]
    commands: tuple[str, ...]


def import_config(path: Path, as_written: bool = False, names: tuple[str, ...] = ()) -> Imported:
    """Reads a FlexUNet configuration.

    Args:
      path: the INI file.
      as_written: gives the file's words where the original's code did something else.
      names: of the classes in the order of their ids; by default from the comment above the palette, if there is one.

    Raises:
      ConfigError: one line for each value that cannot be taken over.
    """
    text = _read(path)
    ini = _Ini(path, text)
    found = _Found()
    _model(ini, found)
    _training(ini, found, as_written)
    _masks(ini, found)
    _augmentation(ini, found)
    classes = _classes(ini, found, names)
    _rest(ini, found)
    if ini.problems:
        raise ConfigError("\n".join(ini.problems))
    values = {"classes": classes, **{name: section for name, section in found.values.items() if section}}
    # Whatever cannot be a configuration of ours is refused here, with the key's own words.
    config_from(values, str(path))
    heading = (f"Imported from {path.name} of a FlexUNet project.",)
    return Imported(to_toml(values, found.comments, heading), tuple(found.notes), tuple(_commands(ini)))


@dataclass
class _Found:
    """The configuration as it grows."""

    values: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {name: {} for name in ("records", "image", "model", "augment", "train")}
    )
    comments: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def set(self, key: str, value: Any, comment: str = "") -> None:
        section, _, name = key.partition(".")
        value, beyond = _within_bounds(section, name, value)
        comment = f"{comment}; {beyond}" if comment and beyond else comment or beyond
        self.values[section][name] = value
        if comment:
            self.comments[key] = comment
            note = f"{key}: {comment}"
            self.notes += [note] if note not in self.notes else []


def _within_bounds(section: str, name: str, value: Any) -> tuple[Any, str]:
    """A number that is beyond what the key may have becomes the nearest, and words that say so.

    Only of augmentation, whose strengths are approximate anyway, and of pictures.
    """
    fields = AugmentConfig.model_fields if section == "augment" else {"preview_images": _PREVIEW_IMAGES}
    if name not in fields or not isinstance(value, int | float) or isinstance(value, bool):
        return value, ""
    nearest = value
    for bound in fields[name].metadata:
        nearest = max(nearest, getattr(bound, "ge", nearest))
        nearest = min(nearest, getattr(bound, "le", nearest), getattr(bound, "lt", math.inf) - 0.01)
    return nearest, "" if nearest == value else f"the file's value comes to {value:g}, beyond what is possible here"


class _Ini:
    """A file's values; those that are no literals are problems, and nothing of them is run."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text
        # In order, each once: a value may be asked for twice.
        self._problems: dict[str, None] = {}
        self._parser = configparser.RawConfigParser(inline_comment_prefixes=(";",), empty_lines_in_values=False)
        try:
            self._parser.read_string(text)
        except (configparser.DuplicateOptionError, configparser.DuplicateSectionError) as error:
            what = f"{error.option} in " if isinstance(error, configparser.DuplicateOptionError) else ""
            words = f"line {error.lineno}: {what}[{error.section}] is there a second time"
            raise ConfigError(f"{path}: {words}, expected once: the original does not read such a file") from None
        except configparser.Error as error:
            raise ConfigError(f"{path}: not a FlexUNet configuration ({last_line(error)}), expected INI") from None
        if "model" not in self._parser:
            there = ", ".join(f"[{section}]" for section in self._parser.sections()) or "none"
            raise ConfigError(f"{path}: no section [model], expected one, all names in small letters; found {there}")
        self.read: set[str] = set()

    @property
    def problems(self) -> list[str]:
        return [*self._problems]

    def sections(self) -> list[str]:
        return self._parser.sections()

    def names(self) -> Iterator[str]:
        for section in self._parser.sections():
            yield from (f"{section}.{key}" for key in self._parser.options(section))

    def raw(self, name: str) -> str | None:
        section, _, key = name.partition(".")
        self.read.add(name)
        return self._parser.get(section, key, fallback=None)

    def get(self, name: str, default: Any, kind: type | tuple[type, ...], expected: str) -> Any:
        """A literal of a kind, or the original's default where the key is absent."""
        text = self.raw(name)
        if text is None:
            return default
        try:
            value = ast.literal_eval(text.strip())
        except NO_LITERAL:
            # The original evaluates bare words as names: of activations and networks.
            if kind is str and text.strip().isidentifier():
                return text.strip()
            self.problem(name, f"is {_short(text)}", f"{expected}: nothing in the file is run, write the value itself")
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind in (int, (int, float))):
            self.problem(name, f"is {_short(text)}", expected)
            return default
        return value

    def is_off(self, name: str) -> bool:
        """Whether a key's value is nothing: None, False, 0 or empty."""
        text = self.raw(name)
        try:
            return text is None or not ast.literal_eval(text.strip() or "None")
        except NO_LITERAL:
            return False

    def problem(self, name: str, what: str, expected: str) -> None:
        self._problems[f"{self.path}: {name} {what}, expected {expected}"] = None

    def flag(self, name: str, default: bool) -> bool:
        return self.get(name, default, bool, "True or False")

    def whole(self, name: str, default: int) -> int:
        return self.get(name, default, int, "a whole number")

    def number(self, name: str, default: float) -> float:
        return self._finite(name, self.get(name, default, (int, float), "a number"), default)

    def numbers(self, name: str, default: list[float]) -> list[float]:
        values = self.get(name, default, (list, tuple), "a list of numbers")
        if not all(type(value) in (int, float) for value in values):
            self.problem(name, f"is {_short(str(values))}", "a list of numbers")
            return default
        return [self._finite(name, value, 1.0) for value in values]

    def _finite(self, name: str, value: float, default: float) -> float:
        # Of whole numbers of any length, too, which are no floats.
        if -_LARGEST < value < _LARGEST:
            return float(value)
        self.problem(name, f"is {_short(str(value))}", "a number")
        return default

    def word(self, name: str, default: str) -> str:
        return self.get(name, default, str, "a word in quotes")

    def pair(self, name: str, default: tuple[int, int]) -> int:
        """The one number of `(k, k)`."""
        value = self.get(name, default, (tuple, list, int), "two equal whole numbers, such as (3,3)")
        numbers = (value, value) if isinstance(value, int) else tuple(value)
        if len(numbers) != 2 or any(type(number) is not int for number in numbers) or numbers[0] != numbers[1]:
            self.problem(name, f"is {value!r}", "two equal whole numbers: this network has square ones only")
            return default[0]
        return numbers[0]


def _read(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file, expected a train_eval_infer.config of a FlexUNet project")
    if path.stat().st_size > _LARGEST_FILE:
        raise ConfigError(
            f"{path}: {path.stat().st_size:,} bytes, expected a configuration of at most {_LARGEST_FILE:,}"
        )
    text, raw = "", path.read_bytes()
    for encoding in ("utf-16",) if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "latin-1"):
        try:
            text = raw.decode(encoding)
            break
        except UnicodeDecodeError:
            # Of an editor on Windows: values are ASCII in any code page, comments may be garbled.
            continue
    if not text.strip() or "\0" in text:
        raise ConfigError(f"{path}: no text, expected INI: save it anew in UTF-8")
    return text


def _model(ini: _Ini, found: _Found) -> None:
    network = ini.word("model.model", NETWORK)
    if network != NETWORK:
        ini.problem("model.model", f"is {network}", f"{NETWORK}: other networks are not supported")
    for side in ("height", "width"):
        if ini.raw(f"model.image_{side}") is None:
            ini.problem(f"model.image_{side}", "is missing", "a whole number: the original has no default")
        found.set(f"image.{side}", ini.whole(f"model.image_{side}", 256))
    found.set("image.fit", "stretch")
    channels = ini.whole("model.image_channels", 3)
    if channels != 3:
        ini.problem("model.image_channels", f"is {channels}", "3: images are RGB here")
    found.set("model.num_layers", ini.whole("model.num_layers", 6))
    found.set("model.base_filters", ini.whole("model.base_filters", 16))
    found.set("model.base_kernel", ini.pair("model.base_kernels", (3, 3)))
    found.set("model.dilation", ini.pair("model.dilation", (1, 1)))
    found.set("model.dropout", ini.number("model.dropout_rate", 0.0))
    if ini.flag("model.dropout_seed_fixing", False):
        found.set(
            "model.dropout_seed", 137, "each layer draws from a seed of its own; in the original all layers drop alike"
        )
    found.set("model.normalization", "batch" if ini.flag("model.normalization", False) else "none")
    activation = ini.word("model.activation", "relu")
    if activation not in _ACTIVATIONS:
        ini.problem("model.activation", f"is {activation!r}", f"one of {', '.join(_ACTIVATIONS)}")
    found.set("model.activation", activation)
    if not ini.flag("model.input_normalize", True):
        found.set("model.input_scale", 1.0, "the original feeds pixels from 0 to 255 as they are")
    if ini.raw("model.final_activation") is not None and ini.whole("model.num_classes", 0) != 1:
        found.notes.append("model.final_activation: softmax is used for several classes, as in the original")


def _training(ini: _Ini, found: _Found, as_written: bool) -> None:
    epochs = ini.whole("train.epochs", 100)
    found.set("train.epochs", epochs)
    found.set("train.batch_size", ini.whole("train.batch_size", 4))
    optimizer = ini.word("model.optimizer", "Adam").casefold()
    if optimizer not in ("adam", "adamw"):
        ini.problem("model.optimizer", f"is {optimizer!r}", "Adam or AdamW: the original knows no other")
    found.set("train.optimizer", optimizer)
    if optimizer == "adamw":
        found.set("train.weight_decay", _ADAMW_DECAY, "Keras' default of AdamW, which the file does not say")
    found.set("train.learning_rate", ini.number("model.learning_rate", 1e-4))
    _clipping(ini, found)
    _loss(ini, found)
    _schedule(ini, found, as_written)
    patience = ini.whole("train.patience", 10)
    if patience > 0:
        found.set("train.early_stopping_patience", patience)
    else:
        found.set("train.early_stopping_patience", epochs, "no early stopping")
    found.set("train.monitor", "loss")
    tiled = ini.flag("train.epoch_change_tiled_infer", False)
    shown = ini.whole("train.num_infer_images", 6) if ini.flag("train.epoch_change_infer", True) or tiled else 0
    found.set("train.preview_images", shown)
    if tiled:
        found.notes.append(
            'train.epoch_change_tiled_infer: previews are of images as training sees them; with image.fit = "tile", '
            "which trains on tiles too, they are whole images predicted in tiles"
        )


def _clipping(ini: _Ini, found: _Found) -> None:
    """Keras takes None for no clipping; where the key is absent, the original's code clips."""
    text = ini.raw("model.clipvalue")
    if text is None or text.strip() != "None":
        words = "" if text else "the file has no clipvalue: the original's code then clips at this"
        found.set("train.clipvalue", ini.number("model.clipvalue", 0.2), words)


def _loss(ini: _Ini, found: _Found) -> None:
    loss = ini.word("model.loss", "categorical_crossentropy")
    known = {
        "categorical_crossentropy": ("cross_entropy", ""),
        "binary_crossentropy": ("cross_entropy", ""),
        "bce_dice_loss": ("cross_entropy_dice", "stands for bce_dice_loss; Dice is of the defect classes here"),
        "dice_loss": ("cross_entropy_dice", "stands for dice_loss, with cross-entropy added"),
    }
    if loss not in known:
        ini.problem("model.loss", f"is {loss!r}", f"one of {', '.join(known)}: others have no counterpart")
        return
    found.set("train.loss", *known[loss])


def _schedule(ini: _Ini, found: _Found, as_written: bool) -> None:
    if not ini.flag("train.learning_rate_reducer", False):
        found.set("train.schedule", "constant")
        return
    patience = ini.whole("train.reducer_patience", 4)
    found.set("train.schedule", "plateau")
    found.set("train.plateau_factor", ini.number("train.reducer_factor", 0.4))
    if as_written or patience == PATIENCE_IN_EFFECT:
        found.set("train.plateau_patience", patience)
    else:
        words = f"the file says {patience}, which the original never hands to Keras: 10 is what ran"
        found.set("train.plateau_patience", PATIENCE_IN_EFFECT, words)


def _masks(ini: _Ini, found: _Found) -> None:
    order = ini.word("image.color_order", "RGB")
    if order.upper() != "RGB":
        found.notes.append(f"image.color_order: {order} only matters for old weights: flexunet import model --bgr")
    file_format = ini.word("mask.mask_file_format", ".npz")
    if file_format == ".npz" and ini.raw("mask.mask_file_format") is not None:
        found.notes.append("mask.mask_file_format: one-hot arrays in .npz are read by `flexunet ingest --layout npz`")
    elif ini.whole("model.num_classes", 0) == 1:
        _threshold(ini, found)
    else:
        words = "the original takes any colour as the nearest class's; here within bounds, and counted"
        found.set("records.mask_colors", "nearest", words)


def _threshold(ini: _Ini, found: _Found) -> None:
    """One-class masks: grey levels, which the original divides only where it is told to."""
    level = min(255, max(1, math.ceil(ini.number("mask.threshold", _HALF_WAY))))
    words = (
        "" if ini.flag("mask.binarize", False) else "the original feeds grey levels as they are; here is none between"
    )
    found.set("records.grey_threshold", level, words)
    if ini.raw("mask.blur") is not None and ini.flag("mask.blur", False):
        found.notes.append("mask.blur: masks are not blurred here")


def _classes(ini: _Ini, found: _Found, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Classes by id; the palette is read leniently, since the best known file of all does not parse."""
    palette = _palette(ini, found)
    number = ini.whole("model.num_classes", len(palette or ()))
    if number == 1:
        found.set("model.head", "sigmoid")
    if palette is None:
        return []
    if len(palette) != max(2, number):
        ini.problem("model.num_classes", f"is {number} with {len(palette)} colours in mask.rgb_map", "one for each")
    given = dict(enumerate(names)) if names else named_colors(ini.text, palette)
    if names and len(names) != len(palette):
        ini.problem("mask.rgb_map", f"has {len(palette)} colours with {len(names)} --names", "a name for each, 0 first")
    rows = [
        {"name": given.get(class_id, "background" if class_id == 0 else f"class{class_id}"), "color": list(color)}
        for color, class_id in sorted(palette.items(), key=lambda item: item[1])
    ]
    unnamed = [row["name"] for class_id, row in enumerate(rows) if class_id and class_id not in given]
    if unnamed:
        found.notes.append(f"classes: the file names none of {', '.join(unnamed)}: name them here, or with --names")
    return rows


def _palette(ini: _Ini, found: _Found) -> Palette | None:
    """None where the file's is a problem, which is told."""
    text = ini.raw("mask.rgb_map")
    if text is None:
        found.notes.append("classes: the file has no rgb_map: these are the original's default colours")
        return dict(BINARY_PALETTE if ini.whole("model.num_classes", 0) == 1 else DEFAULT_PALETTE)
    palette, note = palette_of(text)
    found.notes += [f"classes: {note}"] if note else []
    if palette is None:
        ini.problem("mask.rgb_map", f"is {_short(text)}", "colours and ids, such as {(0,0,0):0, (255,0,0):1}")
        return None
    if sorted(palette.values()) != list(range(len(palette))):
        ini.problem("mask.rgb_map", f"has the ids {sorted(palette.values())}", "0, 1, 2, ... each once")
        return None
    return palette


def _short(text: str) -> str:
    """A value of the file, cut where it would fill the screen."""
    shown = text.strip()
    return repr(shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}...")


def _augmentation(ini: _Ini, found: _Found) -> None:
    """Only with a generator. Each drawn image has one change or none there; here changes are composed."""
    given = [key for key in ini.names() if key.partition(".")[0] in _AUGMENTING]
    generator, augmentation = ini.flag("model.generator", False), ini.flag("generator.augmentation", True)
    if not (generator and augmentation):
        ini.read.update(given)
        return
    _flips(ini, found)
    variants = _rotations(ini, found) + _strengths(ini, found)
    kinds = len(found.values["augment"].keys() - {"horizontal_flip", "vertical_flip"})
    if kinds:
        # Of an image and its n variants one is drawn: each kind of change is seen n/(n + 1)/kinds of the time.
        share = variants / (variants + 1) / kinds
        found.set("augment.probability", round(share, 3), "an image has one change or none there, here several or none")


_AUGMENTING: Final = (
    "augmentor",
    "deformation",
    "distortion",
    "barrdistortion",
    "pincdistortion",
    "sharpening",
    "brightening",
    "transformer",
)


def _flips(ini: _Ini, found: _Found) -> None:
    for theirs, ours in {"hflip": "horizontal_flip", "vflip": "vertical_flip"}.items():
        if ini.flag(f"augmentor.{theirs}", True):
            found.set(f"augment.{ours}", True)


def _rotations(ini: _Ini, found: _Found) -> int:
    """The number of variants that the original makes."""
    angles = ini.numbers("augmentor.angles", [90, 180, 270])
    if not ini.flag("augmentor.rotation", True) or not angles:
        return 0
    found.set("augment.rotations", [float((angle + 180) % 360 - 180) for angle in angles])
    return len(angles)


def _strengths(ini: _Ini, found: _Found) -> int:
    """The number of variants that the original makes of its other changes."""
    variants = 0
    shrinks = ini.numbers("augmentor.shrinks", [0.8])
    if shrinks:
        found.set("augment.shrink", round(1 - min(shrinks), 3), f"from the factors {shrinks}, drawn from a range here")
        variants += len(shrinks)
    shears = ini.numbers("augmentor.shears", [])
    if shears:
        degrees = math.degrees(math.atan(max(abs(shear) for shear in shears)))
        found.set("augment.shear", round(degrees, 1), f"degrees, from the factors {shears}")
        variants += len(shears)
    for theirs, set_key in _CHANGES.items():
        if ini.flag(f"augmentor.{theirs}", False):
            set_key(ini, found)
            variants += 1
    return variants


def _elastic(ini: _Ini, found: _Found) -> None:
    alpha = ini.number("deformation.alpah", 1300)
    sigmas = ini.numbers("deformation.sigmoids", [ini.number("deformation.sigmoid", 8)])
    if not sigmas or min(sigmas) <= 0:
        ini.problem("deformation.sigmoids", f"is {sigmas}", "standard deviations above 0, in pixels")
        return
    sigma = min(sigmas)
    # Uniform noise of -1 to 1 (standard deviation 0.577) blurred by a Gaussian of `sigma` pixels.
    pixels = alpha * 0.577 / (2 * sigma * math.sqrt(math.pi))
    share = pixels / max(1, found.values["image"].get("width", 256))
    words = "about the original's displacement; there image and mask got different random fields"
    found.set("augment.elastic", round(share, 3), words)


def _distortion(ini: _Ini, found: _Found) -> None:
    shares = ini.numbers("distortion.distortions", [0.02]) or [0.02]
    words = "of rows and columns; in the original image and mask got different random fields"
    found.set("augment.distortion", max(shares), words)


def _barrel(ini: _Ini, found: _Found) -> None:
    sections = [name for name in ("barrdistortion", "pincdistortion") if ini.flag(f"augmentor.{name}", False)]
    amounts = [abs(ini.number(f"{section}.amount", 0.5)) for section in sections]
    ini.read.update(f"{section}.{key}" for section in sections for key in ("radius", "centers"))
    found.set("augment.barrel", max(amounts), "over the whole image; radius and centers have no counterpart")


def _sharpen(ini: _Ini, found: _Found) -> None:
    found.set("augment.sharpen", ini.number("sharpening.k", 1.0), "the original sharpened masks, too")


def _brighten(ini: _Ini, found: _Found) -> None:
    found.set("augment.contrast", round(abs(ini.number("brightening.alpha", 1.2) - 1), 3), "up and down, not only up")
    found.set("augment.brighten", abs(ini.number("brightening.beta", 10)), "up and down, not only up")


_CHANGES: Final[dict[str, Callable[[_Ini, _Found], None]]] = {
    "deformation": _elastic,
    "distortion": _distortion,
    "barrdistortion": _barrel,
    "pincdistortion": _barrel,
    "sharpening": _sharpen,
    "brightening": _brighten,
}


def _rest(ini: _Ini, found: _Found) -> None:
    """Keys that nothing above has read."""
    if any(section.startswith("tiledinfer") for section in ini.sections()):
        found.notes.append(
            "tiledinfer: tiles are not cut in training; `flexunet predict --tiled` keeps the scale and blends, "
            "where the original shrinks what it cuts"
        )
    outside = [section for section in ini.sections() if section in _OUT_OF_SCOPE]
    found.notes += [f"{section}: no counterpart, left out" for section in outside]
    for key in ini.names():
        section, _, name = key.partition(".")
        known = key in ini.read or key in _WITHOUT_EFFECT or section in (*outside, "infer", "tiledinfer")
        if not (known or name.endswith(("_dir", "_datapath")) or ini.is_off(key)):
            found.notes.append(f"{key}: no counterpart, left out")


def _commands(ini: _Ini) -> Iterator[str]:
    """Commands with the file's own folders, relative to it."""
    keys = [f"{kind}_{what}" for kind in ("images", "masks", "image", "mask") for what in ("dir", "datapath")]
    named = [ini.raw(f"{split}.{key}") for split in ("train", "valid", "eval", "test") for key in keys]
    source = _common([_folder(ini, text) for text in named if text])
    if source:
        source = source if ini.path.is_absolute() or _on_a_drive(source) else os.path.relpath(source)
        yield f"flexunet ingest {shlex.quote(source)} records --config CONFIG --check"
    images = ini.raw("infer.images_dir")
    if images:
        folder = _folder(ini, images)
        folder = folder if ini.path.is_absolute() or _on_a_drive(folder) else os.path.relpath(folder)
        yield f"flexunet predict runs/imported/serving_model {shlex.quote(folder)} --out predictions"


def _folder(ini: _Ini, text: str) -> str:
    """An absolute path, of Windows too; not as a literal, in which `\\t` of `..\\test` would be a tab."""
    inside = re.sub(r"""^[rRuU]?(["'])(.*)\1$""", r"\2", text.strip()).replace("\\", "/")
    return inside if _on_a_drive(inside) else str((ini.path.parent / inside).resolve())


def _on_a_drive(path: str) -> bool:
    return re.match(r"[A-Za-z]:/", path) is not None


def _common(folders: list[str]) -> str:
    """The folder that holds all; "" where there is none."""
    try:
        return os.path.commonpath([re.sub("/+", "/", folder) for folder in folders])
    except ValueError:
        return ""
