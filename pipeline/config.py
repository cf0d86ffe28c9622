"""The one typed configuration: loaded from TOML, frozen, unknown keys refused, nothing evaluated, no fallback.

A node of the pipeline gets only the sections it reads (`TransformConfig`, `TrainerConfig`, ...), so that a change to
one section re-runs only the nodes that depend on it.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar, cast, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from pipeline import features
from pipeline.cluster import KubeflowConfig
from pipeline.errors import UserError
from pipeline.section import Section

PRESETS: Final = Path(__file__).parent / "configs"

Channel = Annotated[int, Field(ge=0, le=255)]
Color = tuple[Channel, Channel, Channel]
Share = Annotated[float, Field(gt=0, le=1)]

# Slices that every evaluation has: by the set of defects present, and by the largest defect's size.
BUILT_IN_SLICES: Final = ("defects", "size")
SIZE_QUARTILES: Final = ("smallest", "small", "large", "largest")


class ConfigError(UserError):
    """A configuration that cannot be used; names file, key, what was got and what was expected."""


class SegmentationClass(Section):
    """A class; its id is its position in `[[classes]]`, position 0 is the background."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9 _-]*$",
        max_length=64,
        description="Letters, digits, spaces, _ and -, at most 64.",
    )
    color: Color = Field(description="RGB colour of the class in masks, 0 to 255 each.")


class RecordsConfig(Section):
    """Feature keys in the records, for records made elsewhere, and the colour of unlabelled pixels."""

    image: str = Field(default=features.IMAGE_ENCODED, description="Key of the encoded image.")
    mask: str = Field(default=features.MASK_ENCODED, description="Key of the encoded mask.")
    id: str = Field(default=features.IMAGE_ID, description="Key of the id.")
    group: str = Field(default=features.IMAGE_GROUP, description='Key of the group; "" for none.')
    ignore_color: Color | None = Field(
        default=None, description="RGB of unlabelled pixels: out of loss, counts, statistics."
    )
    overlaps: Literal["last", "smallest", "classes"] = Field(
        default="last",
        description="Which of two annotated instances is on top: the last in the file, the smallest, or the one whose "
        "class comes later in `[[classes]]`.",
    )


class ImageConfig(Section):
    """What the model sees, and how an image of another size is brought to it."""

    height: int = Field(default=256, ge=8, le=8192, description="Pixels.")
    width: int = Field(default=256, ge=8, le=8192, description="Pixels.")
    fit: Literal["stretch", "pad", "tile"] = Field(
        default="stretch",
        description="stretch: resize to height x width; pad: resize keeping the aspect, pad the rest; "
        "tile: keep the scale and cut into overlapping tiles (for wide strips).",
    )
    tile_overlap: int = Field(
        default=32, ge=0, description="Pixels shared by neighbouring tiles; only for fit = 'tile'."
    )
    max_pixels: int = Field(default=50_000_000, ge=64, description="Larger images are refused before they are decoded.")

    @model_validator(mode="after")
    def _accepts_images_of_its_own_size(self) -> Self:
        if self.height * self.width > self.max_pixels:
            raise ValueError(
                f"max_pixels is {self.max_pixels}, expected at least height * width, {self.height * self.width}: "
                "the export would refuse images of the model's size"
            )
        return self

    @model_validator(mode="after")
    def _overlap_is_less_than_half_a_tile(self) -> Self:
        if self.fit == "tile" and 2 * self.tile_overlap > min(self.height, self.width):
            raise ValueError(
                f"tile_overlap is {self.tile_overlap}, expected at most half of the smaller side "
                f"({min(self.height, self.width) // 2}); lower it or enlarge the tile"
            )
        return self


class DatasetConfig(Section):
    """How images are dealt to splits, and how many spans of them a run reads."""

    train: Share = Field(default=0.8, description="Share of the images that trains; the three add up to 1.")
    eval: Share = Field(default=0.1, description="Share that steers training.")
    test: Share = Field(default=0.1, description="Share that the gate and every headline use.")
    seed: int = Field(default=137, ge=0, description="Of how groups are dealt to splits.")
    near_duplicate_correlation: Share = Field(default=0.95, description="Images that correlate more share a group.")
    spans: int = Field(default=1, ge=1, description="A run reads the newest spans, so many, together.")

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        total = self.train + self.eval + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + eval + test is {total:g}, expected 1")
        return self


class ModelConfig(Section):
    """FlexUNet's layers; see trainer_module/model.py."""

    num_layers: int = Field(default=5, ge=2, le=10, description="Levels, the bridge included.")
    base_filters: int = Field(
        default=16, ge=1, le=512, description="Filters of level 0; level i has base_filters * 2**i."
    )
    base_kernel: int = Field(
        default=5, ge=1, le=31, description="Kernel of level 0; level i has max(3, base_kernel - 2 i)."
    )
    dilation: int = Field(default=1, ge=1, le=16, description="Dilation of level 0; level i has max(1, dilation - i).")
    dropout: float = Field(default=0.03, ge=0, lt=1, description="Level i drops dropout * i.")
    dropout_seed: int | None = Field(default=None, ge=0, description="Unset: drawn from train.seed.")
    normalization: Literal["none", "batch", "group"] = Field(
        default="none", description="After each convolution of the U; group: 8 channels a group."
    )
    activation: Literal[
        "relu",
        "mish",
        "celu",
        "elu",
        "gelu",
        "hard_silu",
        "hard_swish",
        "leaky_relu",
        "relu6",
        "selu",
        "silu",
        "softplus",
        "softsign",
        "swish",
        "tanh",
    ] = Field(default="relu", description="Of every convolution but the last.")
    head: Literal["softmax", "sigmoid"] = Field(
        default="softmax",
        description="sigmoid: one output channel, for exactly two classes; everything after it sees two.",
    )


class AugmentConfig(Section):
    """Random changes of training images, drawn anew each epoch; image and mask move together.

    0, false and an empty list turn a change off. Flips and symmetries are drawn evenly; each of the others is applied
    with `probability`.
    """

    horizontal_flip: bool = Field(default=False, description="Left to right, half of the time.")
    vertical_flip: bool = Field(default=False, description="Top to bottom, half of the time.")
    symmetries: bool = Field(
        default=False, description="One of the eight symmetries of the square; where height is not width, of the four."
    )
    probability: Share = Field(default=0.5, description="Of each of the changes below.")
    rotations: tuple[Annotated[float, Field(ge=-180, le=180)], ...] = Field(
        default=(), description="Degrees, of which one is drawn."
    )
    shrink: float = Field(default=0, ge=0, lt=1, description="By at most this share of the size.")
    zoom: float = Field(default=0, ge=0, le=4, description="Into a random part, by at most this share of the size.")
    shear: float = Field(default=0, ge=0, lt=45, description="Degrees, at most.")
    elastic: float = Field(default=0, ge=0, le=0.2, description="Displacement, share of the size, at most.")
    distortion: float = Field(default=0, ge=0, le=0.2, description="Of rows and columns, share of the size, at most.")
    barrel: float = Field(default=0, ge=0, le=0.5, description="Strength of barrel (or pincushion) at the corners.")
    sharpen: float = Field(default=0, ge=0, le=4, description="Weight of the unsharp mask, at most.")
    brighten: float = Field(default=0, ge=0, le=255, description="Grey levels added or taken, at most.")
    contrast: float = Field(default=0, ge=0, lt=1, description="Share by which contrast grows or falls, at most.")
    noise: float = Field(default=0, ge=0, le=128, description="Standard deviation in grey levels, at most.")


class TrainConfig(Section):
    """The recipe."""

    epochs: int = Field(default=100, ge=1, description="At most; early stopping may end training before.")
    batch_size: int = Field(default=8, ge=1, description="Images (or tiles) of one step, over all GPUs together.")
    optimizer: Literal["adam", "adamw"] = Field(default="adam", description="adamw: with decoupled weight decay.")
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="Decoupled; only for optimizer = 'adamw'.")
    learning_rate: float = Field(default=1e-3, gt=0, description="At its highest.")
    clipvalue: float | None = Field(default=None, gt=0, description="Each gradient element is clipped to this size.")
    loss: Literal["cross_entropy", "cross_entropy_dice", "focal", "focal_dice"] = Field(
        default="cross_entropy", description="..._dice: with the Dice loss of the defect classes added."
    )
    focal_gamma: float = Field(default=2.0, ge=0, le=10, description="Only for the focal losses.")
    class_weights: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="Weight of a class in cross-entropy and focal loss, by name; 1 if not named."
    )
    schedule: Literal["constant", "cosine", "plateau"] = Field(
        default="plateau", description="Of the learning rate; plateau: lowered when `monitor` no longer improves."
    )
    warmup_epochs: float = Field(default=0, ge=0, description="Epochs of linear warm-up; only for schedule = 'cosine'.")
    plateau_factor: float = Field(default=0.4, gt=0, lt=1, description="What the rate is multiplied by.")
    plateau_patience: int = Field(default=4, ge=0, description="Epochs without progress before that.")
    early_stopping_patience: int = Field(default=10, ge=1, description="Epochs without progress before training ends.")
    monitor: Literal["loss", "foreground_dice"] = Field(
        default="foreground_dice", description="Measured on `eval`; keeps the best weights and steers early stopping."
    )
    ema_decay: float | None = Field(
        default=None, gt=0, lt=1, description="The weights measured and kept are an average over steps with this decay."
    )
    warm_start: bool = Field(
        default=False, description="Starts from the weights of the newest pushed model that was trained on other data."
    )
    cache_megabytes: int = Field(default=2048, ge=0, description="Decoded images are kept in memory while they fit.")
    disk_cache_megabytes: int = Field(
        default=0, ge=0, description="What does not fit into memory is kept on disk while it fits here."
    )
    max_seconds: float | None = Field(
        default=None,
        gt=0,
        description="Training stops after the epoch that passes this; a cosine ends here if it comes before `epochs`.",
    )
    preview_images: int = Field(
        default=6, ge=0, le=64, description="Images of `eval` whose predicted masks are drawn after each epoch."
    )
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = Field(
        default="auto", description="auto: float32 on CPUs, mixed on GPUs (bfloat16 from compute capability 8 on)."
    )
    jit_compile: Literal["auto", "on", "off"] = Field(
        default="auto", description="XLA; auto: on GPUs, unless deterministic."
    )
    deterministic: Literal["auto", "on", "off"] = Field(
        default="auto", description="Bit for bit the same weights each time; auto: on CPUs only."
    )
    seed: int = Field(default=137, ge=0, lt=2**32, description="Of weights, order of the images, augmentation.")


class GateConfig(Section):
    """What a model must reach on `test`: docs/explanation/gate.md. Bounds are inclusive, an undefined score fails."""

    min_foreground_dice: Share = Field(default=0.5, description="Bound of the mean Dice over the defect classes.")
    bound_on: Literal["lower", "point"] = Field(
        default="lower",
        description="lower: the lower end of foreground Dice's 95 % interval must keep the bound; point: its value.",
    )
    min_class_dice: dict[str, Share] = Field(default_factory=dict, description="Bound of a class's Dice, by name.")
    allow_unmeasured: tuple[str, ...] = Field(
        default=(), description="Classes that may have no pixel in `test`; a model is refused for any other."
    )
    max_regression: float = Field(
        default=0.01, ge=0, le=1, description="How much foreground Dice may be lost against the baseline."
    )
    min_defects_found: Share | None = Field(default=None, description="Share of the defects, all classes together.")
    defect_overlap: Share = Field(
        default=0.25, description="A defect is found if this share of its pixels was predicted as its class."
    )
    max_false_alarms: float | None = Field(default=None, ge=0, le=1, description="Share of the defect-free images.")
    false_alarm_share: Share = Field(
        default=0.0005, description="A defect-free image is a false alarm if this share of it is predicted as defect."
    )
    slice_columns: tuple[str, ...] = Field(default=(), description="Columns of `--metadata` to measure by value.")
    min_slice_dice: dict[str, Share] = Field(
        default_factory=dict,
        description="Bound per slice: 'defects=inclusion+scratches', 'size=smallest' (then small, large, largest: "
        "quartiles of the largest defect), 'column=value'.",
    )
    min_groups: int = Field(default=10, ge=1, description="A slice with fewer groups is shown, not gated.")
    resamples: int = Field(default=1000, ge=200, le=20_000, description="Of the bootstrap that gives the intervals.")
    seed: int = Field(default=137, ge=0, lt=2**63, description="Of the bootstrap.")
    listed_images: int = Field(default=5, ge=1, le=100, description="How many worst, median and best images are named.")

    @model_validator(mode="after")
    def _slices_are_measured(self) -> Self:
        reserved = [column for column in self.slice_columns if column in BUILT_IN_SLICES]
        if reserved:
            raise ValueError(
                f"slice_columns names {reserved[0]!r}, which the gate measures by itself, expected another: rename it"
            )
        known = (*BUILT_IN_SLICES, *self.slice_columns)
        for name in self.min_slice_dice:
            column, equals, value = name.partition("=")
            if column not in known or not equals or (column == "size" and value not in SIZE_QUARTILES):
                expected = ", ".join([f"size={q}" for q in SIZE_QUARTILES] + [f"{k}=..." for k in known if k != "size"])
                raise ValueError(f"min_slice_dice names {name!r}, expected one of {expected}")
        return self


class ServingConfig(Section):
    """How a model is checked before it is pushed, and how many versions stay. Bounds that are unset only report."""

    keep_versions: int = Field(
        default=5, ge=2, description="Newest versions that stay; a rollback needs an earlier one."
    )
    test_images: int = Field(default=8, ge=1, le=1000, description="Served and evaluated, and their counts compared.")
    max_latency_seconds: float | None = Field(
        default=None, gt=0, description="Median for one image of the model's size."
    )
    max_memory_megabytes: float | None = Field(default=None, gt=0, description="Peak above the loaded model, idle.")
    timeout_seconds: float = Field(default=600, gt=0, description="A model that takes longer to check is refused.")
    infra_validator: Literal["none", "local_docker", "kubernetes"] = Field(
        default="none", description="Also TFX's InfraValidator, which starts TF Serving itself."
    )
    mirror: str = Field(default="", description="URL of a remote store that gets a copy of each pushed version.")
    image: str = Field(default="tensorflow/serving:2.21.0", description="TF Serving, as NAME:TAG, for InfraValidator.")

    @field_validator("image")
    @classmethod
    def _is_a_name_with_a_tag(cls, image: str) -> str:
        # InfraValidator takes both apart and knows no digests. A registry may have a port.
        name, _, tag = image.rpartition(":")
        if not name or not tag or "/" in tag or "@" in image:
            raise ValueError(f"got {image!r}, expected NAME:TAG, such as tensorflow/serving:2.21.0")
        return image


class SchemaConfig(Section):
    """The sections that the records' schema is made of."""

    classes: tuple[SegmentationClass, ...] = Field(min_length=2, max_length=features.IGNORE_ID)
    records: RecordsConfig = Field(default_factory=RecordsConfig)


class TransformConfig(SchemaConfig):
    """The sections that Transform reads."""

    image: ImageConfig = Field(default_factory=ImageConfig)


class TrainerConfig(TransformConfig):
    """The sections that Trainer reads."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)


class GateSettings(Section):
    """The sections that the gate and the report read."""

    classes: tuple[SegmentationClass, ...]
    gate: GateConfig


class ServingSettings(Section):
    """The sections that the serving validator reads."""

    records: RecordsConfig
    serving: ServingConfig


class Config(TrainerConfig):
    """Everything. `[[classes]]` is required; every other section has defaults."""

    dataset: DatasetConfig = Field(default_factory=DatasetConfig)
    serving: ServingConfig = Field(default_factory=ServingConfig)
    gate: GateConfig = Field(default_factory=GateConfig)
    kubeflow: KubeflowConfig = Field(default_factory=KubeflowConfig)

    @field_validator("classes")
    @classmethod
    def _classes_are_distinct(cls, classes: tuple[SegmentationClass, ...]) -> tuple[SegmentationClass, ...]:
        for what, values in (("name", [c.name for c in classes]), ("color", [c.color for c in classes])):
            repeated = [value for index, value in enumerate(values) if value in values[:index]]
            if repeated:
                raise ValueError(f"the {what} {repeated[0]!r} is used twice, expected a different one for each class")
        return classes

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        checks = (
            self._check_image_size,
            self._check_head,
            self._check_dropout,
            self._check_warmup,
            self._check_weights,
            self._check_ignore_color,
            self._check_gate_classes,
        )
        problems = [problem for check in checks for problem in check()]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _check_image_size(self) -> Iterator[str]:
        divisor = 2 ** (self.model.num_layers - 1)
        for key in ("height", "width"):
            size = getattr(self.image, key)
            if size % divisor:
                yield (
                    f"image.{key} is {size}, expected a multiple of {divisor} (2**(model.num_layers - 1)), such as "
                    f"{max(1, round(size / divisor)) * divisor}"
                )

    def _check_head(self) -> Iterator[str]:
        if self.model.head == "sigmoid" and len(self.classes) != 2:
            yield (
                f"model.head is 'sigmoid' with {len(self.classes)} classes, expected exactly 2; use head = 'softmax'"
            )

    def _check_dropout(self) -> Iterator[str]:
        deepest = self.model.dropout * (self.model.num_layers - 1)
        if deepest >= 1:
            limit = 1 / (self.model.num_layers - 1)
            yield (
                f"model.dropout is {self.model.dropout:g}, which makes {deepest:g} at the deepest of "
                f"{self.model.num_layers} levels, expected less than {limit:.3g}"
            )

    def _check_warmup(self) -> Iterator[str]:
        warmup, epochs = self.train.warmup_epochs, self.train.epochs
        if warmup >= epochs:
            yield f"train.warmup_epochs is {warmup:g}, expected less than train.epochs, {epochs}"

    def _check_weights(self) -> Iterator[str]:
        names = [c.name for c in self.classes]
        for name in self.train.class_weights:
            if name not in names:
                yield f"train.class_weights names {name!r}, expected a class: {', '.join(names)}"
        if self.train.weight_decay and self.train.optimizer != "adamw":
            yield (
                f"train.weight_decay is {self.train.weight_decay:g} with optimizer = {self.train.optimizer!r}, "
                "expected 0; use optimizer = 'adamw'"
            )

    def _check_ignore_color(self) -> Iterator[str]:
        for segmentation_class in self.classes:
            if segmentation_class.color == self.records.ignore_color:
                yield (
                    f"records.ignore_color {list(segmentation_class.color)} is also the colour of class "
                    f"{segmentation_class.name!r}, expected a colour of its own"
                )

    def _check_gate_classes(self) -> Iterator[str]:
        choices = [c.name for c in self.classes[1:]]
        for key in ("min_class_dice", "allow_unmeasured"):
            for name in getattr(self.gate, key):
                if name not in choices:
                    yield (f"gate.{key} names {name!r}, expected a defect class: {', '.join(choices)}")
        for name in self.gate.min_slice_dice:
            column, _, value = name.partition("=")
            ordered = "+".join(choice for choice in choices if choice in value.split("+"))
            if column == "defects" and value != ordered:
                yield f"gate.min_slice_dice names {name!r}, expected defect classes in this order: {'+'.join(choices)}"


_Part = TypeVar("_Part", bound=Section)


def part_of(config: Section, part: type[_Part]) -> _Part:
    """The sections of `config` that `part` declares."""
    return part(**{name: getattr(config, name) for name in part.model_fields})


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a TOML file, or a preset by its bare name (`demo`), and applies `a.b=value` overrides.

    Raises:
      ConfigError: one line for each mistake.
    """
    path = _find(source)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    return config_from(values, str(path), overrides)


def config_from(values: dict[str, Any], source: str, overrides: Sequence[str] = ()) -> Config:
    """Checks plain values, to which `a.b=value` overrides are applied.

    Raises:
      ConfigError: one line for each mistake.
    """
    for override in overrides:
        _apply(values, override)
    source = " ".join([source, *(f"--set {override}" for override in overrides)])
    try:
        return Config.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        problems = [problem for problem in error.errors() if not _is_echo(problem)]
        lines = [f"{source}: {line}" for problem in problems for line in _explain(problem).splitlines()]
        raise ConfigError("\n".join(lines)) from None


def preset_names() -> list[str]:
    """The names of the configurations that ship with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def _find(source: str | Path) -> Path:
    path = Path(source)
    preset = PRESETS / f"{source}.toml"
    if not path.is_file() and "/" not in str(source) and preset.is_file():
        return preset
    if not path.is_file():
        close = difflib.get_close_matches(str(source), preset_names(), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"{path}: no such file, expected a TOML file or a preset: {', '.join(preset_names())}{hint}")
    return path


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(f"--set {override}: expected section.key=value, such as train.epochs=20")
    for name in names[:-1]:
        section = values.setdefault(name, {})
        if not isinstance(section, dict):
            raise ConfigError(f"--set {override}: {name} is not a section; lists are changed in the TOML file")
        values = cast("dict[str, Any]", section)
    values[names[-1]] = _parse_value(override, text.strip())


def _parse_value(override: str, text: str) -> Any:
    # A bare word is a string, so that `--set image.fit=pad` needs no quotes inside quotes.
    if re.fullmatch(r"[A-Za-z_][\w-]*", text) and text not in {"true", "false", "inf", "nan"}:
        return text
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        parsed = {}
    if list(parsed) != ["value"]:
        raise ConfigError(f"--set {override}: {text!r} is not a TOML value (numbers, true, false, 'text', [lists])")
    return parsed["value"]


def _is_echo(problem: Any) -> bool:
    # pydantic counts only the valid items of a tuple: a wrong item would also be reported as a tuple too short.
    return problem["type"] == "too_short" and problem["ctx"]["actual_length"] < len(problem["input"])


def _explain(problem: Any) -> str:
    """One line for one of pydantic's problems: the key, what was got, what was expected."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key}; {_suggestion(problem['loc'])}"
    if problem["type"] == "missing":
        return f"{key} is missing, expected {_repair(key)}"
    message = problem["msg"].removeprefix("Value error, ")
    message = re.sub(r"^\w+ should (be )?", lambda found: "expected " if found[1] else "expected to ", message)
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: got {problem['input']!r}, {message}"


def _repair(key: str) -> str:
    return "at least two [[classes]], the background first" if key == "classes" else "a value"


def _suggestion(location: tuple[int | str, ...]) -> str:
    """The closest key of the same section, else of any: a right key is often in the wrong section, or in none."""
    section: Any = Config
    for name in location[:-1]:
        section = _section_type(section, name)
    choices, wrong = list(section.model_fields), str(location[-1])
    close = difflib.get_close_matches(wrong, choices, n=1)
    if not close:
        names = {key.rpartition(".")[2] for key in key_names()}
        elsewhere = difflib.get_close_matches(wrong, names, n=1)
        close = [key for key in key_names() if key.rpartition(".")[2] in elsewhere]
    return f"did you mean {' or '.join(close)}?" if close else f"expected one of {', '.join(choices)}"


def key_names() -> list[str]:
    """Every `section.key` that `--set` takes."""
    return [
        f"{name}.{key}"
        for name, field in Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        for key in field.annotation.model_fields
    ]


def _section_type(section: Any, name: int | str) -> Any:
    """The section at a key; of a tuple or a dict of sections that of its items, whose numbers or names follow."""
    field = section.model_fields.get(name)
    kinds = [field.annotation, *get_args(field.annotation)] if field else []
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), section)
