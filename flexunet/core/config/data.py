"""Settings of what is read: `[[classes]]`, `[records]` and `[image]`."""

from typing import Annotated, Literal, Self

from pydantic import Field, FiniteFloat, field_validator, model_validator

from flexunet.core import features
from flexunet.core.config.section import Section, Share

Channel = Annotated[int, Field(ge=0, le=255)]

Color = tuple[Channel, Channel, Channel]


class SegmentationClass(Section):
    """A class; its id is its position in `[[classes]]`, position 0 is the background."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9 _-]*$",
        max_length=64,
        description="Name of the class: letters, digits, spaces, _ and -, at most 64 characters.",
    )
    color: Color = Field(description="Colour of the class in masks: red, green, blue, 0 to 255 each.")


class RecordsConfig(Section):
    """Feature keys in the records, for records made elsewhere, and the colour of unlabelled pixels."""

    image: str = Field(default=features.IMAGE_ENCODED, description="Feature key of the encoded image.")
    mask: str = Field(default=features.MASK_ENCODED, description="Feature key of the encoded mask.")
    id: str = Field(default=features.IMAGE_ID, description="Feature key of the image's id.")
    group: str = Field(
        default=features.IMAGE_GROUP,
        description='Feature key of the near-duplicate group; "" if the records have none.',
    )
    ignore_color: Color | None = Field(
        default=None,
        description="Colour of unlabelled pixels, which are left out of the loss, the counts and the statistics.",
    )
    mask_values: Literal["auto", "ids", "colors"] = Field(
        default="auto",
        description="What the values of grey masks, and the indices of palette masks, are: ids of classes, or colours; "
        "auto: what fits, and a mask that both fit is refused.",
    )
    mask_colors: Literal["exact", "nearest"] = Field(
        default="exact",
        description="nearest: a colour that is no class's counts as the nearest class's, within the two bounds; for "
        "masks whose tool smoothed the rims.",
    )
    nearest_distance: int = Field(
        default=222,
        ge=1,
        le=442,
        description="Largest distance in RGB that a colour is moved; half of that from black to white is 221.",
    )
    nearest_share: Share = Field(default=0.2, description="Largest share of a mask's pixels that is moved.")
    overlaps: Literal["last", "smallest", "classes"] = Field(
        default="last",
        description="Which of two annotated instances is on top: the last in the file, the smallest, or the one whose "
        "class comes later in `[[classes]]`.",
    )


class ImageConfig(Section):
    """What the model sees, and how an image of another size is brought to it."""

    height: int = Field(default=256, ge=8, le=8192, description="Height of the model's input in pixels.")
    width: int = Field(default=256, ge=8, le=8192, description="Width of the model's input in pixels.")
    fit: Literal["stretch", "pad", "tile"] = Field(
        default="stretch",
        description="stretch: resize to height x width; pad: resize keeping the aspect, pad the rest; "
        "tile: keep the scale and cut into overlapping tiles (for wide strips).",
    )
    tile_overlap: int = Field(
        default=32, ge=0, description="Overlap of neighbouring tiles in pixels; only for fit = 'tile'."
    )
    max_pixels: int = Field(
        default=50_000_000,
        ge=64,
        description="Most pixels of an image, height times width; a larger one is refused before it is decoded.",
    )
    pixel_size: float | None = Field(
        default=None,
        gt=0,
        description="Side of a pixel on the surface in millimetres, for figures per square metre; unset: unknown.",
    )
    value_range: tuple[FiniteFloat, FiniteFloat] | None = Field(
        default=None,
        description="Values of black and white in images of more than 8 bits, such as [0, 4095] for 12 bits in 16, or "
        "[0, 1] for floats; unset: only those are read whose file tells it.",
    )

    @field_validator("value_range")
    @classmethod
    def _black_is_below_white(cls, value_range: tuple[float, float] | None) -> tuple[float, float] | None:
        if value_range and not value_range[0] < value_range[1]:
            raise ValueError(f"got {list(value_range)}, expected [black, white] with black below white")
        return value_range

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


class SchemaConfig(Section):
    """The sections that the records' schema is made of."""

    classes: tuple[SegmentationClass, ...] = Field(min_length=2, max_length=features.IGNORE_ID)
    records: RecordsConfig = Field(default_factory=RecordsConfig)


class TransformConfig(SchemaConfig):
    """The sections that Transform reads."""

    image: ImageConfig = Field(default_factory=ImageConfig)
