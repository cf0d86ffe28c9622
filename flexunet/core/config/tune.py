"""Settings of a search for better settings: `[tune]`."""

from types import UnionType
from typing import Annotated, Final, Self, TypeAlias, get_args, get_origin

from pydantic import Discriminator, Field, FiniteFloat, Tag, model_validator

from flexunet.core.config.section import Scalar, Section
from flexunet.core.config.train import TrainerConfig

# More would only train for longer, and a longer training is nearly always better: the budget bounds it.
BUDGETS: Final = ("train.epochs", "train.max_seconds")


class Range(Section):
    """Numbers from `low` to `high`, both included; whole ones for a key that takes only such."""

    low: int | FiniteFloat = Field(description="Smallest value that is tried.")
    high: int | FiniteFloat = Field(description="Largest value that is tried.")
    log: bool = Field(default=False, description="Draw evenly by the logarithm, as learning rates want it.")

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low is {self.low:g} and high {self.high:g}, expected low below high")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low:g} with log = true, expected more than 0")
        return self


def kind_of_numbers(section: type[Section], name: str) -> type[int] | type[float] | None:
    """What a key takes any of within bounds, perhaps beside None; None for one that takes certain values, or others."""
    annotation = section.model_fields[name].annotation
    kinds = get_args(annotation) if get_origin(annotation) is UnionType else (annotation,)
    return next((kind for kind in (int, float) if kind in kinds), None)


def _kind(value: object) -> str:
    return "range" if isinstance(value, dict | Range) else "list"


# The tags keep errors to the form that was meant.
Candidates: TypeAlias = Annotated[
    Annotated[Range, Tag("range")] | Annotated[tuple[Scalar, ...], Field(min_length=2), Tag("list")],
    Discriminator(_kind),
]
_OfSection: TypeAlias = dict[str, Candidates]


class SpaceConfig(Section):
    """What is tried, by key of the section: a list of values, or {low, high}; whatever is not named stays."""

    model: _OfSection = Field(default_factory=dict, description="Keys of [model], such as base_filters = [8, 16, 24].")
    augment: _OfSection = Field(default_factory=dict, description="Keys of [augment], such as symmetries.")
    train: _OfSection = Field(
        default_factory=dict,
        description="Keys of [train], such as learning_rate = {low = 3e-4, high = 1e-2, log = true}.",
    )

    def by_key(self) -> dict[str, Candidates]:
        """By `section.key`."""
        sections = {"model": self.model, "augment": self.augment, "train": self.train}
        return {f"{name}.{key}": found for name, keys in sections.items() for key, found in keys.items()}


class TuneConfig(Section):
    """A search within a budget; off while `space` is empty. docs/how-to/best-model.md"""

    seconds: float = Field(
        default=3600,
        gt=0,
        description="Time budget of the search; a trial begins only if one as long as the longest so far would fit.",
    )
    trial_seconds: float | None = Field(
        default=None,
        gt=0,
        description="Time budget of each trial, in place of train.max_seconds; unset: that of [train].",
    )
    seed: int = Field(default=137, ge=1, lt=2**31, description="Random seed of what is tried.")
    space: SpaceConfig = Field(
        default_factory=SpaceConfig, description="What is tried; empty: nothing, and the pipeline has no Tuner."
    )

    @model_validator(mode="after")
    def _a_trial_ends_in_time(self) -> Self:
        if self.trial_seconds is not None and self.trial_seconds > self.seconds:
            raise ValueError(
                f"trial_seconds is {self.trial_seconds:g}, expected at most `seconds`, {self.seconds:g}: the first "
                "trial is run in any case"
            )
        return self


class TunerConfig(TrainerConfig):
    """The sections that Tuner reads."""

    tune: TuneConfig = Field(default_factory=TuneConfig)

    def search_json(self) -> str:
        """What decides the trials, as JSON: not how many there will be."""
        return self.model_dump_json(exclude={"operating_point": True, "serving": True, "tune": {"seconds"}})
