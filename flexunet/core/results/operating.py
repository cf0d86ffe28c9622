"""`assets.extra/operating_point.json` of an export: from which probability on a pixel is a defect, and why."""

from typing import TypedDict


class OperatingPoint(TypedDict):
    """What Trainer chose on `eval`, at the images' own size."""

    target: str
    """`operating_point.target`"""
    thresholds: dict[str, float]
    """by defect class: a pixel is of the most probable of them if that probability is above its threshold"""
    images: int
    """of `eval`, that it was chosen on"""
    found_share: dict[str, float | None]
    """by defect class, on `eval`; `null`: `eval` has none of it"""
    false_regions_per_megapixel: float
    """of all classes together, on `eval`"""
    problems: list[str]
    """sentences: a class that `eval` does not show, a target that no threshold reaches"""
