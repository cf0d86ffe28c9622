"""Settings of `[operating_point]`: which defects a plant must find, or how many false stops it can bear."""

import re
from typing import Final, Literal, NamedTuple

from pydantic import Field, field_validator

from flexunet.core.config.section import Section

Unit = Literal["megapixel", "square metre"]

_NUMBER: Final = r"(\d+(?:\.\d*)?|\.\d+)"
_FOUND: Final = re.compile(rf"found >= {_NUMBER}")
_FALSE: Final = re.compile(rf"at most {_NUMBER} false regions per (megapixel|square metre)")


class Target(NamedTuple):
    """The least share of the defects that is found where `unit` is None, else the most false regions in one `unit`."""

    bound: float
    unit: Unit | None


class OperatingPointConfig(Section):
    """Where a plant wants to stand between missed defects and false stops; chosen on `eval`, measured on `test`."""

    target: str = Field(
        default="",
        description="'found >= 0.98' (of the defects of each class), 'at most 2 false regions per megapixel' or '... "
        "per square metre' (needs image.pixel_size): Trainer chooses a probability threshold for each class; empty: "
        "every pixel has its most probable class.",
    )

    @field_validator("target")
    @classmethod
    def _is_a_target(cls, target: str) -> str:
        if target and parse_target(target) is None:
            raise ValueError(
                f"got {target!r}, expected 'found >= 0.98' (a share above 0, at most 1) or 'at most 2 false regions "
                "per megapixel' (or 'per square metre')"
            )
        return target


def parse_target(target: str) -> Target | None:
    """What the words of a target mean; None if they are none."""
    if found := _FOUND.fullmatch(target):
        share = float(found[1])
        return Target(share, None) if 0 < share <= 1 else None
    if false := _FALSE.fullmatch(target):
        return Target(float(false[1]), "megapixel" if false[2] == "megapixel" else "square metre")
    return None
