"""Settings of the model and of its training: `[model]`, `[augment]` and `[train]`."""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import Field

from flexunet.core.config.data import SourcesConfig, TransformConfig
from flexunet.core.config.operating import OperatingPointConfig
from flexunet.core.config.section import Scalar, Section, Share
from flexunet.core.config.symmetries import ExportedServing

# The encoder whose layers the keys of `[model]` describe; others are those of keras.applications.
FLEXUNET: Final = "flexunet"
# Keys of `[model]` that only FLEXUNET has a use for.
_OF_FLEXUNET: Final = ("input_scale", "standardize", "num_layers", "stem_stride")
# What models that share weights may differ in.
NO_WEIGHTS: Final = ("dropout", "dropout_seed")
# EfficientNetV2, as most networks for ImageNet.
_HALVINGS: Final = 5
# Of an image: a share of a batch is rounded to the nearest whole one.
_HALF: Final = 0.5


class ModelConfig(Section):
    """FlexUNet's layers; see trainer_module/model.py."""

    encoder: Literal["flexunet", "efficientnetv2-b0"] = Field(
        default=FLEXUNET,
        description="Layers from the image down to the deepest level; efficientnetv2-b0: those of keras.applications, "
        "which train.encoder_weights begins with, 32 pixels of the image to one of the deepest level. The other keys "
        "are then those of the decoder; input_scale, standardize, num_layers and stem_stride are FlexUNet's own.",
    )
    input_scale: float = Field(
        default=1 / 255,
        gt=0,
        le=1,
        description="Factor of pixel values, 0 to 255, before the first convolution; 1 feeds them raw.",
    )
    standardize: bool = Field(
        default=False,
        description="Bring each input of the model to mean 0 and standard deviation 1 over its pixels; not for images "
        "that are padded or cut into tiles, whose figures are those of borders and cuts.",
    )
    num_layers: int = Field(default=5, ge=2, le=10, description="Number of resolution levels, the bridge included.")
    base_filters: int = Field(
        default=16, ge=1, le=512, description="Number of filters of level 0; level i has base_filters * 2**i."
    )
    base_kernel: int = Field(
        default=5, ge=1, le=31, description="Kernel size of level 0; level i has max(3, base_kernel - 2 i)."
    )
    stem_stride: Literal[1, 2, 4] = Field(
        default=1,
        description="Pixels on a side that a first convolution joins to one; every level works at that resolution, and "
        "the output layer brings the image's own back. 1: no such layer.",
    )
    dilation: int = Field(
        default=1, ge=1, le=16, description="Dilation rate of level 0; level i has max(1, dilation - i)."
    )
    dropout: float = Field(
        default=0.03, ge=0, lt=1, description="Dropout rate per level: level i drops with probability dropout * i."
    )
    dropout_seed: int | None = Field(
        default=None, ge=0, description="Random seed of dropout; unset: derived from train.seed."
    )
    normalization: Literal["none", "batch", "group"] = Field(
        default="none", description="Normalization after each convolution; group: 8 channels per group."
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
    ] = Field(default="relu", description="Activation of every convolution but the last.")
    head: Literal["softmax", "sigmoid"] = Field(
        default="softmax",
        description="Output layer; sigmoid: one channel, for exactly two classes; everything after it sees two.",
    )

    @property
    def halvings(self) -> int:
        """How often height and width are halved behind the stem."""
        return self.num_layers - 1 if self.encoder == FLEXUNET else _HALVINGS

    @property
    def size_divisor(self) -> int:
        """What height and width of the model's input must be multiples of: a pixel of the bridge is so many wide."""
        return self.stem_stride * 2**self.halvings


class AugmentConfig(Section):
    """Random changes of training images, drawn anew each epoch; image and mask move together.

    0, false and an empty list turn a change off. Crops, flips and symmetries are drawn evenly; each of the others is
    applied with `probability`.
    """

    crops: bool = Field(
        default=False,
        description="Cut tiles anywhere in the image instead of always at the same places, those of "
        "`train.defect_share` around a defect; only for image.fit = 'tile'.",
    )
    horizontal_flip: bool = Field(default=False, description="Mirror left to right with probability 0.5.")
    vertical_flip: bool = Field(default=False, description="Mirror top to bottom with probability 0.5.")
    symmetries: bool = Field(
        default=False,
        description="Apply a random symmetry of the square (one of eight), or of the rectangle (one of four).",
    )
    probability: Share = Field(default=0.5, description="Probability of each of the changes below.")
    rotations: tuple[Annotated[float, Field(ge=-180, le=180)], ...] = Field(
        default=(), description="Angles in degrees, one of which is drawn."
    )
    shrink: float = Field(default=0, ge=0, lt=1, description="Largest reduction of the image, as a share of its size.")
    zoom: float = Field(
        default=0, ge=0, le=4, description="Largest magnification into a random part, as a share of the image's size."
    )
    shear: float = Field(default=0, ge=0, lt=45, description="Largest shear angle in degrees.")
    elastic: float = Field(
        default=0,
        ge=0,
        le=0.2,
        description="Largest displacement of an elastic deformation, as a share of the image's size.",
    )
    distortion: float = Field(
        default=0, ge=0, le=0.2, description="Largest displacement of rows and columns, as a share of the image's size."
    )
    barrel: float = Field(
        default=0, ge=0, le=0.5, description="Largest barrel or pincushion distortion, measured at the corners."
    )
    sharpen: float = Field(default=0, ge=0, le=4, description="Largest weight of the unsharp mask.")
    brighten: float = Field(default=0, ge=0, le=255, description="Largest change of brightness in grey levels.")
    contrast: float = Field(default=0, ge=0, lt=1, description="Largest relative change of contrast.")
    noise: float = Field(
        default=0, ge=0, le=128, description="Largest standard deviation of Gaussian noise, in grey levels."
    )


class TrainConfig(Section):
    """The training recipe."""

    epochs: int = Field(
        default=100, ge=1, description="Largest number of epochs; early stopping may end training before."
    )
    batch_size: int = Field(
        default=8, ge=1, description="Number of images (or tiles) per step, over all GPUs together."
    )
    optimizer: Literal["adam", "adamw", "muon"] = Field(
        default="adam",
        description="Optimizer; adamw: Adam with decoupled weight decay; muon: steps of kernels made orthogonal, Adam "
        "for the rest, for rates about five times those of adamw.",
    )
    weight_decay: float = Field(
        default=0.0, ge=0, le=1, description="Decoupled weight decay of kernels; not for optimizer = 'adam'."
    )
    defect_share: float = Field(
        default=0,
        ge=0,
        le=1,
        description="Share of each batch that is drawn from images (or tiles) that show a defect, the classes in turn; "
        "0: all images equally often.",
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="Peak learning rate.")
    clipvalue: float | None = Field(
        default=None, gt=0, description="Largest absolute value of a gradient element; unset: no clipping."
    )
    loss: Literal["cross_entropy", "cross_entropy_dice", "focal", "focal_dice"] = Field(
        default="cross_entropy", description="Loss; ..._dice: plus the soft Dice loss of the defect classes."
    )
    focal_gamma: float = Field(default=2.0, ge=0, le=10, description="Focusing exponent of the focal losses.")
    class_weights: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="Weight of a class in cross-entropy and focal loss, by name; 1 if not named."
    )
    hardest_pixels: Share = Field(
        default=1,
        description="Share of the labelled pixels of each image that cross-entropy and focal loss are the mean of, "
        "those of the largest loss; 1: all.",
    )
    schedule: Literal["constant", "cosine", "cooldown", "plateau"] = Field(
        default="plateau",
        description="Learning rate schedule; cosine: half a cosine to 0; cooldown: constant, then linear to 0; "
        "plateau: lowered when `monitor` no longer improves.",
    )
    warmup_epochs: float = Field(
        default=0, ge=0, description="Number of epochs of linear warm-up; only for 'cosine' and 'cooldown'."
    )
    cooldown: Share = Field(
        default=0.4, description="Share of the training in which schedule = 'cooldown' goes down to 0."
    )
    plateau_factor: float = Field(
        default=0.4, gt=0, lt=1, description="Factor by which schedule = 'plateau' lowers the learning rate."
    )
    plateau_patience: int = Field(
        default=4, ge=0, description="Number of epochs without progress before schedule = 'plateau' lowers the rate."
    )
    early_stopping_patience: int = Field(
        default=10, ge=1, description="Number of epochs without progress before training ends."
    )
    monitor: Literal["loss", "foreground_dice"] = Field(
        default="foreground_dice",
        description="Quantity on `eval` that selects the best weights and steers early stopping.",
    )
    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Longest decay of the moving average of the weights, which is measured and kept; its memory is at "
        "most a quarter of the steps so far. Unset: none.",
    )
    batch_norm_momentum: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Momentum of the moving statistics of batch normalization; unset: their memory is a quarter of the "
        "steps so far, and at most 100 steps.",
    )
    encoder_weights: str = Field(
        default="",
        description="File of weights that an encoder of keras.applications begins with, as Keras publishes it without "
        "top layers (efficientnetv2-b0_notop.h5); nothing is downloaded. Empty: random weights.",
    )
    freeze_encoder: bool = Field(
        default=False, description="Leave the weights and statistics of the encoder as training begins with them."
    )
    warm_start: bool = Field(
        default=False, description="Initialize from the newest pushed model that was trained on other data."
    )
    cache_megabytes: int = Field(
        default=2048, ge=0, description="Memory for decoded images; they are cached while they fit."
    )
    disk_cache_megabytes: int = Field(
        default=0, ge=0, description="Disk space for decoded images that do not fit into memory."
    )
    max_seconds: float | None = Field(
        default=None,
        gt=0,
        description="Time budget, checked after each epoch; a schedule ends here if it comes before `epochs`.",
    )
    preview_images: int = Field(
        default=6, ge=0, le=64, description="Number of `eval` images whose predicted masks are drawn after each epoch."
    )
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = Field(
        default="auto",
        description="Numeric precision; auto: float32 on CPUs, mixed on GPUs (bfloat16 from compute capability 8 on).",
    )
    jit_compile: Literal["auto", "on", "off"] = Field(
        default="auto", description="Compilation with XLA; auto: on GPUs, unless deterministic."
    )
    deterministic: Literal["auto", "on", "off"] = Field(
        default="auto", description="Training that repeats bit for bit; auto: on CPUs only."
    )
    seed: int = Field(
        default=137, ge=0, lt=2**32, description="Random seed of initial weights, order of the images and augmentation."
    )


class TrainerConfig(TransformConfig):
    """The sections that Trainer reads."""

    # With the shares. Frozen, so that nobody can put the other in its place; basedpyright does not know.
    dataset: SourcesConfig = Field(default_factory=SourcesConfig)  # pyright: ignore[reportIncompatibleVariableOverride]
    model: ModelConfig = Field(default_factory=ModelConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    operating_point: OperatingPointConfig = Field(default_factory=OperatingPointConfig)
    serving: ExportedServing = Field(default_factory=ExportedServing)

    def training_json(self) -> str:
        """What decides the weights, as JSON: not what is made of their answers."""
        return self.model_dump_json(exclude={"operating_point", "serving"})

    def source_tiles(self) -> dict[str, int]:
        """How many images (or tiles) of a batch are from each of `dataset.sources` that has a share."""
        shares = {name: share for name, share in self.dataset.sources.items() if share}
        return {name: max(1, round(share * self.train.batch_size)) for name, share in shares.items()}

    def tuned(self, values: Mapping[str, Scalar]) -> Self:
        """With other values by `section.key`.

        Raises:
          ValueError: a key or a value that there is not.
        """
        sections = self.model_dump()
        for key, value in values.items():
            section, _, name = key.partition(".")
            sections[section][name] = value
        return type(self).model_validate(sections)

    def contradictions(self) -> Iterator[str]:
        """A line for each pair of settings that exclude each other."""
        checks = (
            self._check_image_size,
            self._check_encoder,
            self._check_head,
            self._check_symmetries,
            self._check_crops,
            self._check_dropout,
            self._check_warmup,
            self._check_weights,
            self._check_hardest,
            self._check_shares,
            self._check_groups,
        )
        for check in checks:
            yield from check()

    def _check_groups(self) -> Iterator[str]:
        if self.dataset.equal_groups and not self.records.group:
            yield 'dataset.equal_groups with records.group = "", expected the key of the groups'

    def _check_image_size(self) -> Iterator[str]:
        divisor = self.model.size_divisor
        because = "2**(model.num_layers - 1)"
        if self.model.encoder != FLEXUNET:
            because = f"model.encoder = {self.model.encoder!r}"
        elif self.model.stem_stride > 1:
            because = f"model.stem_stride * {because}"
        for key in ("height", "width"):
            size = getattr(self.image, key)
            if size % divisor:
                yield (
                    f"image.{key} is {size}, expected a multiple of {divisor} ({because}), such as "
                    f"{max(1, round(size / divisor)) * divisor}"
                )

    def _check_encoder(self) -> Iterator[str]:
        encoder, train = self.model.encoder, self.train
        if encoder == FLEXUNET:
            for key in ("encoder_weights", "freeze_encoder"):
                if getattr(train, key):
                    yield f"train.{key} with model.encoder = {encoder!r}, expected an encoder of keras.applications"
            return
        for key in _OF_FLEXUNET:
            value, default = getattr(self.model, key), ModelConfig.model_fields[key].default
            if value != default:
                yield f"model.{key} is {value!r} with model.encoder = {encoder!r}, expected none: it has no such key"
        if train.freeze_encoder and not train.encoder_weights:
            yield "train.freeze_encoder without train.encoder_weights, expected a file: what is frozen would be random"

    def _check_head(self) -> Iterator[str]:
        if self.model.head == "sigmoid" and len(self.classes) != 2:
            yield (
                f"model.head is 'sigmoid' with {len(self.classes)} classes, expected exactly 2; use head = 'softmax'"
            )

    def _check_symmetries(self) -> Iterator[str]:
        if self.serving.symmetries == 8 and self.image.height != self.image.width:
            yield (
                f"serving.symmetries is 8 with images of {self.image.height}x{self.image.width}, expected a square to "
                "turn; use 4"
            )

    def _check_crops(self) -> Iterator[str]:
        if self.augment.crops and self.image.fit != "tile":
            yield (
                f"augment.crops with image.fit = {self.image.fit!r}, expected 'tile': a part of an image has another "
                "scale than the whole one that is served; use augment.zoom"
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

    def _check_hardest(self) -> Iterator[str]:
        share, pixels = self.train.hardest_pixels, self.image.height * self.image.width
        if share * pixels < 1:
            yield f"train.hardest_pixels is {share:g} of {pixels} pixels, expected at least one, {1 / pixels:.3g}"

    def _check_shares(self) -> Iterator[str]:
        of_sources, defect_share = self.source_tiles(), self.train.defect_share
        if sum(self.dataset.sources.values()) + defect_share > 1:
            yield "dataset.sources and train.defect_share add up to more than 1, expected at most 1 of a batch"
        yield from self._check_rounded_shares()
        if sum(of_sources.values()) >= self.train.batch_size:
            tiles = ", ".join(f"{number} of {name}" for name, number in of_sources.items())
            yield (
                f"a batch is {self.train.batch_size} images, {tiles} by dataset.sources, expected room for the others: "
                "raise train.batch_size or lower the shares"
            )

    def _check_rounded_shares(self) -> Iterator[str]:
        """At least one image of a batch is of each share, which in a small batch may be many times as much."""
        size, defect_share = self.train.batch_size, self.train.defect_share
        if 0 < defect_share * size < _HALF:
            yield (
                f"train.defect_share is {defect_share:g}, less than half an image in a batch of {size}, and one of "
                f"{size} would be {1 / size:g}: expected train.batch_size = {math.ceil(_HALF / defect_share)} or more, "
                "or a larger share"
            )
        for name, tiles in self.source_tiles().items():
            share = self.dataset.sources[name]
            if tiles / size > 1.5 * share:
                yield (
                    f"dataset.sources.{name} is {share:g}, and {tiles} of a batch of {size} would be {tiles / size:g}, "
                    f"expected at most half more: train.batch_size = {math.ceil(2 / (3 * share))} or more, or a larger "
                    "share"
                )

    def _check_weights(self) -> Iterator[str]:
        names = [c.name for c in self.classes]
        for name in self.train.class_weights:
            if name not in names:
                yield f"train.class_weights names {name!r}, expected a class: {', '.join(names)}"
        if self.train.weight_decay and self.train.optimizer == "adam":
            yield (
                f"train.weight_decay is {self.train.weight_decay:g} with optimizer = {self.train.optimizer!r}, "
                "expected 0; use optimizer = 'adamw' or 'muon'"
            )
