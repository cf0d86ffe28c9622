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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_args

from flexunet.core.config.load import ConfigError, config_from
from flexunet.core.config.train import ModelConfig
from flexunet.core.config.write import to_toml
from flexunet.core.errors import last_line

NETWORK: Final = "TensorFlowFlexUNet"
# The reducer gets its patience under a misspelt name, which Keras swallows: its own default is what ran.
PATIENCE_IN_EFFECT: Final = 10
# Half way from black to white, where the file has no threshold.
_HALF_WAY: Final = 128
_LARGEST_FILE: Final = 1_000_000
_LONGEST_SHOWN: Final = 80
# What `ast.literal_eval` raises.
_NO_LITERAL: Final = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)
_ACTIVATIONS: Final = get_args(ModelConfig.model_fields["activation"].annotation)
# Keras' default, which the file does not say.
_ADAMW_DECAY: Final = 0.004
_DEFAULT_PALETTE: Final = {(0, 0, 0): 0, (0, 255, 0): 1, (255, 0, 0): 2, (0, 0, 255): 3}
_BINARY_PALETTE: Final = {(0, 0, 0): 0, (255, 255, 255): 1}
_COLORS: Final = {
    "black": (0, 0, 0),
    "blue": (0, 0, 255),
    "green": (0, 255, 0),
    "red": (255, 0, 0),
    "yellow": (255, 255, 0),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "white": (255, 255, 255),
}
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
        self.values[section][name] = value
        if comment:
            self.comments[key] = comment
            self.notes.append(f"{key}: {comment}")


class _Ini:
    """A file's values; those that are no literals are problems, and nothing of them is run."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text, self.problems = path, text, []
        self._parser = configparser.RawConfigParser(inline_comment_prefixes=(";",), empty_lines_in_values=False)
        try:
            self._parser.read_string(text)
        except configparser.Error as error:
            raise ConfigError(f"{path}: not a FlexUNet configuration ({last_line(error)}), expected INI") from None
        self.read: set[str] = set()

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
        except _NO_LITERAL:
            # The original evaluates bare words as names: of activations and networks.
            value = text.strip() if kind is str and text.strip().isidentifier() else None
        is_right = isinstance(value, kind) and not (isinstance(value, bool) and kind in (int, (int, float)))
        if value is None or not is_right:
            self.problem(name, f"is {_short(text)}", f"{expected}: nothing in the file is run, write the value itself")
            return default
        return value

    def problem(self, name: str, what: str, expected: str) -> None:
        self.problems.append(f"{self.path}: {name} {what}, expected {expected}")

    def flag(self, name: str, default: bool) -> bool:
        return self.get(name, default, bool, "True or False")

    def whole(self, name: str, default: int | None) -> int:
        return self.get(name, default, int, "a whole number")

    def number(self, name: str, default: float | None) -> float:
        return self.get(name, default, (int, float), "a number")

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
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: no text in UTF-8, expected INI: save it anew") from None


def _model(ini: _Ini, found: _Found) -> None:
    network = ini.word("model.model", NETWORK)
    if network != NETWORK:
        ini.problem("model.model", f"is {network}", f"{NETWORK}: other networks are not supported")
    for side in ("height", "width"):
        found.set(f"image.{side}", ini.whole(f"model.image_{side}", 256))
    found.set("image.fit", "stretch")
    channels = ini.whole("model.image_channels", 3)
    if channels != 3:
        ini.problem("model.image_channels", f"is {channels}", "3: images are RGB here")
    found.set("model.num_layers", ini.whole("model.num_layers", 6))
    found.set("model.base_filters", ini.whole("model.base_filters", 16))
    found.set("model.base_kernel", ini.pair("model.base_kernels", (3, 3)))
    found.set("model.dilation", ini.pair("model.dilation", (1, 1)))
    found.set("model.dropout", float(ini.number("model.dropout_rate", 0.0)))
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
    found.set("train.learning_rate", float(ini.number("model.learning_rate", 1e-4)))
    absent = ini.raw("model.clipvalue") is None
    found.set(
        "train.clipvalue",
        float(ini.number("model.clipvalue", 0.2)),
        "the file has no clipvalue: the original's code then clips at this" if absent else "",
    )
    _loss(ini, found)
    _schedule(ini, found, as_written)
    patience = ini.whole("train.patience", 10)
    if patience > 0:
        found.set("train.early_stopping_patience", patience)
    else:
        found.set("train.early_stopping_patience", epochs, "no early stopping")
    found.set("train.monitor", "loss")
    shown = ini.whole("train.num_infer_images", 6) if ini.flag("train.epoch_change_infer", True) else 0
    found.set("train.preview_images", shown)
    if ini.flag("train.epoch_change_tiled_infer", False):
        found.notes.append("train.epoch_change_tiled_infer: previews are drawn at the model's size, without tiles")


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
    found.set("train.plateau_factor", float(ini.number("train.reducer_factor", 0.4)))
    if as_written or patience == PATIENCE_IN_EFFECT:
        found.set("train.plateau_patience", patience)
    else:
        words = f"the file says {patience}, which the original never hands to Keras: 10 is what ran"
        found.set("train.plateau_patience", PATIENCE_IN_EFFECT, words)


def _masks(ini: _Ini, found: _Found) -> None:
    order = ini.word("image.color_order", "RGB")
    if order != "RGB":
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
    expected = max(2, ini.whole("model.num_classes", len(palette)))
    if ini.whole("model.num_classes", len(palette)) == 1:
        found.set("model.head", "sigmoid")
    if len(palette) != expected:
        ini.problem("model.num_classes", f"is {expected} with {len(palette)} colours in mask.rgb_map", "one for each")
    given = dict(enumerate(names)) if names else _named_colors(ini.text, palette)
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


def _palette(ini: _Ini, found: _Found) -> dict[tuple[int, int, int], int]:
    text = ini.raw("mask.rgb_map")
    if text is None:
        found.notes.append("classes: the file has no rgb_map: these are the original's default colours")
        return dict(_BINARY_PALETTE if ini.whole("model.num_classes", 0) == 1 else _DEFAULT_PALETTE)
    try:
        palette = ast.literal_eval(text)
    except _NO_LITERAL:
        entries = re.findall(r"\(\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\)\s*:\s*(\d+)", text)
        palette = {(int(red), int(green), int(blue)): int(number) for red, green, blue, number in entries}
        found.notes.append(
            "classes: mask.rgb_map does not parse, so that the original ran with its default "
            "(1 green, 2 red, 3 blue); these are the colours that the file means, and weights that it trained "
            "tell the default's ids: for them, order the classes so"
        )
    if not isinstance(palette, dict) or not all(_is_entry(color, number) for color, number in palette.items()):
        ini.problem("mask.rgb_map", f"is {_short(text)}", "colours and ids, such as {(0,0,0):0, (255,0,0):1}")
        return dict(_DEFAULT_PALETTE)
    if sorted(palette.values()) != list(range(len(palette))):
        ini.problem("mask.rgb_map", f"has the ids {sorted(palette.values())}", "0, 1, 2, ... each once")
    return palette


def _short(text: str) -> str:
    """A value of the file, cut where it would fill the screen."""
    shown = text.strip()
    return repr(shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}...")


def _is_entry(color: Any, number: Any) -> bool:
    return (
        isinstance(color, tuple)
        and len(color) == 3
        and all(type(channel) is int and 0 <= channel <= 255 for channel in color)
        and type(number) is int
    )


def _named_colors(text: str, palette: dict[tuple[int, int, int], int]) -> dict[int, str]:
    """Names from a comment such as `;Patches:blue, Inclusion:green` right above the palette."""
    above = re.search(r"^[;#]([^\n]*)\n\s*rgb_map", text, re.MULTILINE)
    if not above:
        return {}
    named = re.findall(r"([A-Za-z][\w -]*?)\s*:\s*([A-Za-z]+)", above[1])
    colors = [(name.strip(), _COLORS.get(word.casefold())) for name, word in named]
    return {palette[color]: name for name, color in colors if color in palette}


def _augmentation(ini: _Ini, found: _Found) -> None:
    """Only with a generator. Each drawn image has one change or none there; here changes are composed."""
    given = [key for key in ini.names() if key.partition(".")[0] in _AUGMENTING]
    if not (ini.flag("model.generator", False) and ini.flag("generator.augmentation", True)):
        for key in given:
            ini.read.add(key)
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
    angles = ini.get("augmentor.angles", [90, 180, 270], (list, tuple), "a list of degrees")
    if not ini.flag("augmentor.rotation", True) or not angles:
        return 0
    found.set("augment.rotations", [float((angle + 180) % 360 - 180) for angle in angles])
    return len(angles)


def _strengths(ini: _Ini, found: _Found) -> int:
    """The number of variants that the original makes of its other changes."""
    variants = 0
    shrinks = ini.get("augmentor.shrinks", [0.8], (list, tuple), "a list of factors")
    if shrinks:
        found.set("augment.shrink", round(1 - min(shrinks), 3), f"from the factors {shrinks}, drawn from a range here")
        variants += len(shrinks)
    shears = ini.get("augmentor.shears", [], (list, tuple), "a list of factors")
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
    alpha, sigma = ini.number("deformation.alpah", 1300), ini.number("deformation.sigmoid", 8)
    # Uniform noise of -1 to 1 (standard deviation 0.577) blurred by a Gaussian of `sigma` pixels.
    pixels = alpha * 0.577 / (2 * sigma * math.sqrt(math.pi))
    share = min(0.2, pixels / max(1, found.values["image"].get("width", 256)))
    words = "about the original's displacement; there image and mask got different random fields"
    found.set("augment.elastic", round(share, 3), words)


def _distortion(ini: _Ini, found: _Found) -> None:
    shares = ini.get("distortion.distortions", [0.02], (list, tuple), "a list of shares")
    words = "of rows and columns; in the original image and mask got different random fields"
    found.set("augment.distortion", float(max(shares)), words)


def _barrel(ini: _Ini, found: _Found) -> None:
    amounts = [abs(ini.number(f"{section}.amount", 0.5)) for section in ("barrdistortion", "pincdistortion")]
    found.set("augment.barrel", min(0.5, max(amounts)), "over the whole image; radius and centers have no counterpart")


def _sharpen(ini: _Ini, found: _Found) -> None:
    found.set("augment.sharpen", float(ini.number("sharpening.k", 1.0)), "the original sharpened masks, too")


def _brighten(ini: _Ini, found: _Found) -> None:
    found.set("augment.contrast", round(abs(ini.number("brightening.alpha", 1.2) - 1), 3), "up and down, not only up")
    found.set("augment.brighten", float(abs(ini.number("brightening.beta", 10))), "up and down, not only up")


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
        if not known and not name.endswith(("_dir", "_datapath")):
            found.notes.append(f"{key}: no counterpart, left out")


def _commands(ini: _Ini) -> Iterator[str]:
    """Commands with the file's own folders, relative to it."""
    folders = [ini.raw(f"{split}.{kind}_dir") for split in ("train", "valid", "test") for kind in ("images", "masks")]
    named = [Path(folder.strip().strip("\"'")) for folder in folders if folder]
    if named:
        base = ini.path.parent
        parents = [list(reversed([path, *path.parents])) for path in named]
        common = [level[0] for level in zip(*parents, strict=False) if len(set(level)) == 1]
        source = os.path.normpath(base / (common[-1] if common else Path()))
        yield f"flexunet ingest {source} records --config CONFIG --check"
    images = ini.raw("infer.images_dir")
    if images:
        folder = os.path.normpath(ini.path.parent / images.strip().strip("\"'"))
        yield f"flexunet predict runs/imported/serving_model {folder} --out predictions"
