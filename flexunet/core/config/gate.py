"""Settings of `[gate]`: what a model must reach."""

from typing import Final, Literal, Self

from pydantic import Field, model_validator

from flexunet.core.config.data import SegmentationClass
from flexunet.core.config.section import Section, Share

# Slices that every evaluation has: by the set of defects present, and by the largest defect's size.
BUILT_IN_SLICES: Final = ("defects", "size")

SIZE_QUARTILES: Final = ("smallest", "small", "large", "largest")


class GateConfig(Section):
    """What a model must reach on `test`: docs/explanation/gate.md. Bounds are inclusive, an undefined score fails."""

    min_foreground_dice: Share = Field(
        default=0.5, description="Lower bound of foreground Dice, the mean Dice over the defect classes."
    )
    bound_on: Literal["lower", "point"] = Field(
        default="lower",
        description="lower: the lower end of foreground Dice's 95 % interval must keep the bound; point: its value.",
    )
    min_class_dice: dict[str, Share] = Field(
        default_factory=dict, description="Lower bound of the Dice of a class, by name."
    )
    allow_unmeasured: tuple[str, ...] = Field(
        default=(), description="Classes that may have no pixel in `test`; a model is refused for any other."
    )
    max_regression: float = Field(
        default=0.01, ge=0, le=1, description="Largest accepted loss of foreground Dice against the baseline."
    )
    min_defects_found: Share | None = Field(
        default=None,
        description="Lower bound of the share of defects that are found, over all classes; unset: not gated.",
    )
    defect_overlap: Share = Field(
        default=0.25,
        description="Share of a defect's pixels that must be predicted as its class for the defect to be found.",
    )
    max_false_alarms: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Upper bound of the share of defect-free images with a false alarm; unset: not gated.",
    )
    false_alarm_share: Share = Field(
        default=0.0005,
        description="Share of an image that a false region must cover; and that must be predicted as defect for a "
        "false alarm, where the image is defect-free.",
    )
    max_false_regions: float | None = Field(
        default=None,
        ge=0,
        description="Upper bound of the false regions per megapixel, on all images; unset: not gated.",
    )
    max_a90_95: float | None = Field(
        default=None,
        gt=0,
        description="Upper bound of a90/95, the size in pixels (side of the square of the area) from which on 90 % of "
        "the defects are found at 95 % confidence; unset: not gated.",
    )
    slice_columns: tuple[str, ...] = Field(
        default=(), description="Columns of `--metadata` whose values become slices."
    )
    min_slice_dice: dict[str, Share] = Field(
        default_factory=dict,
        description="Lower bound of foreground Dice per slice, by name: 'defects=inclusion+scratches', 'size=smallest' "
        "(then small, large, largest: quartiles of the largest defect), 'column=value'.",
    )
    min_groups: int = Field(
        default=10,
        ge=1,
        description="Smallest number of groups for a slice to be gated; a smaller slice is only shown.",
    )
    resamples: int = Field(
        default=1000, ge=200, le=20_000, description="Number of bootstrap resamples behind the intervals."
    )
    seed: int = Field(default=137, ge=0, lt=2**63, description="Random seed of the bootstrap.")
    listed_images: int = Field(
        default=5, ge=1, le=100, description="Number of worst, median and best images that the report names, each."
    )

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


class GateSettings(Section):
    """The sections that the gate and the report read."""

    classes: tuple[SegmentationClass, ...]
    gate: GateConfig
