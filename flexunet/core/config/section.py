"""What every group of settings is made of."""

from typing import Annotated, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A frozen group of settings; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# A setting that is one value.
Scalar: TypeAlias = bool | int | float | str

Share = Annotated[float, Field(gt=0, le=1)]

_Part = TypeVar("_Part", bound=Section)


def part_of(config: Section, part: type[_Part]) -> _Part:
    """The sections of `config` that `part` declares, and of each only the keys that are declared there."""
    fields = part.model_fields.items()
    return part(**{name: _narrowed(getattr(config, name), field.annotation) for name, field in fields})


def _narrowed(value: object, declared: object) -> object:
    """A section without the keys of its own class, where one that it is derived from is declared."""
    if isinstance(value, Section) and isinstance(declared, type) and issubclass(declared, Section):
        return value if declared is type(value) else part_of(value, declared)
    return value
