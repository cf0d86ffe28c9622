"""What every group of settings is made of."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A frozen group of settings; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Share = Annotated[float, Field(gt=0, le=1)]

_Part = TypeVar("_Part", bound=Section)


def part_of(config: Section, part: type[_Part]) -> _Part:
    """The sections of `config` that `part` declares; of a section of which it declares less, that much."""
    values = {}
    for name, field in part.model_fields.items():
        value, kind = getattr(config, name), field.annotation
        if (
            isinstance(value, Section)
            and isinstance(kind, type)
            and issubclass(kind, Section)
            and type(value) is not kind
        ):
            value = part_of(value, kind)
        values[name] = value
    return part(**values)
