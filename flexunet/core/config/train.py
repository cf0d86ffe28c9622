"""Settings of the model and of its training: `[model]`, `[augment]` and `[train]`."""

from typing import Annotated, Literal

from pydantic import Field

from flexunet.core.config.data import TransformConfig
from flexunet.core.config.section import Section, Share


class ModelConfig(Section):
    """FlexUNet's layers; see trainer_module/model.py."""

    input_scale: float = Field(
        default=1 / 255,
        gt=0,
        le=1,
        description="What pixel values, 0 to 255, are multiplied by before the first convolution; 1 feeds them raw.",
    )
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


class TrainerConfig(TransformConfig):
    """The sections that Trainer reads."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
