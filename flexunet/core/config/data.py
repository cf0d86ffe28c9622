"""Settings of what is read: `[[classes]]`, `[records]` and `[image]`."""

import unicodedata
from collections.abc import Collection
from typing import Annotated, Literal, Self

from pydantic import Field, FiniteFloat, field_validator, model_validator

from flexunet.core import features
from flexunet.core.config.section import Section

Channel = Annotated[int, Field(ge=0, le=255)]

Color = tuple[Channel, Channel, Channel]


class SegmentationClass(Section):
    """A class; its id is its position in `[[classes]]`, position 0 is the background."""

    name: str = Field(
        min_length=1, max_length=64, description="Name of the class: any printable text of at most 64 characters."
    )
    color: Color = Field(description="Colour of the class in masks: red, green, blue, 0 to 255 each.")

    @field_validator("name")
    @classmethod
    def _is_one_printable_line(cls, name: str) -> str:
        if not name.isprintable() or name != name.strip():
            raise ValueError(f"got {name!r}, expected printable text without spaces around it")
        return unicodedata.normalize("NFC", name)


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


class SourceNames(Section):
    """Which images only train, without their shares, and whether Trainer asks for groups."""

    sources: tuple[str, ...] = ()
    equal_groups: bool = False

    @field_validator("sources", mode="before")
    @classmethod
    def _without_shares(cls, sources: Collection[str]) -> tuple[str, ...]:
        return tuple(sources)


class SourcesConfig(Section):
    """The part of `[dataset]` that tells which images only train, and how often images come."""

    sources: dict[Annotated[str, Field(min_length=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        default_factory=dict,
        description="Folders whose images, such as generated ones, only train, and the share of each batch that is "
        "drawn from each: { rendered = 0.25 }; 0: nothing of it trains. Their near-duplicates only train, too.",
    )

    equal_groups: bool = Field(
        default=False,
        description="Training draws near-duplicate groups equally often, however many images they have, and not images "
        "(or tiles): among those of no source, and among those of each.",
    )

    @field_validator("sources")
    @classmethod
    def _leaves_room_for_the_rest(cls, sources: dict[str, float]) -> dict[str, float]:
        if sum(sources.values()) >= 1:
            raise ValueError(
                f"sources add up to {sum(sources.values()):g}, expected less than 1: the rest is the others'"
            )
        for name in sources:
            if name != name.strip("/"):
                raise ValueError(f"sources names {name!r}, expected a folder without / around it")
        # As ids are.
        return {unicodedata.normalize("NFC", name): share for name, share in sources.items()}


class SchemaConfig(Section):
    """The sections that the records' schema is made of."""

    classes: tuple[SegmentationClass, ...] = Field(min_length=2, max_length=features.IGNORE_ID)
    records: RecordsConfig = Field(default_factory=RecordsConfig)


class TransformConfig(SchemaConfig):
    """The sections that Transform reads."""

    image: ImageConfig = Field(default_factory=ImageConfig)
    dataset: SourceNames = Field(default_factory=SourceNames)
