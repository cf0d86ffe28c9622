"""Settings of ingest: `[dataset]`, which RecordGen reads too, and the keys of `[records]` by which masks are read."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from flexunet.core.config.data import RecordsConfig, SourcesConfig
from flexunet.core.config.section import Share


class DatasetConfig(SourcesConfig):
    """How images are assigned to splits, and how many spans a run reads."""

    train: Share = Field(
        default=0.8, description="Share of the images in `train`, which trains the model; the three shares add up to 1."
    )
    eval: Share = Field(
        default=0.1, description="Share of the images in `eval`, which steers training (early stopping, best weights)."
    )
    test: Share = Field(
        default=0.1, description="Share of the images in `test`, which the gate and every headline use."
    )
    seed: int = Field(default=137, ge=0, description="Random seed for assigning groups to splits.")
    near_duplicate_correlation: Share = Field(
        default=0.95, description="Correlation above which two images are near-duplicates and share a group."
    )
    spans: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        default=1, description="Number of the newest spans that a run reads together, or all of them."
    )

    @property
    def span_limit(self) -> int | None:
        """How many spans a run reads at most; None for all."""
        return None if self.spans == "all" else self.spans

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        total = self.train + self.eval + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + eval + test is {total:g}, expected 1")
        return self


class MasksConfig(RecordsConfig):
    """`[records]` with the keys that only ingest reads: nodes get it without them, but for the Reporter."""

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
    grey_threshold: int | None = Field(
        default=None,
        ge=1,
        le=255,
        description="Grey level from which on a pixel of a mask is the brighter of two classes, whatever its tool "
        "smoothed, JPEG included; unset: levels mean what `mask_values` says.",
    )
    overlaps: Literal["last", "smallest", "classes"] = Field(
        default="last",
        description="Which of two annotated instances is on top: the last in the file, the smallest, or the one whose "
        "class comes later in `[[classes]]`.",
    )
