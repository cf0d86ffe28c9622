"""Settings of `[dataset]`: how images are assigned to splits. Read by ingest and RecordGen."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from flexunet.core.config.section import Section, Share


class DatasetConfig(Section):
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
