"""`assets.extra/operating_point.json` of an export: what makes a defect of probabilities, and why."""

from typing import TypedDict


class OperatingPoint(TypedDict):
    """What Trainer chose on `eval`, at the images' own size."""

    target: str
    """`operating_point.target`"""
    thresholds: dict[str, float]
    """by defect class: a pixel is of the most probable of them if that probability is above its threshold"""
    smallest_regions: dict[str, int]
    """by defect class: regions of fewer pixels count as background; the client removes them, the graph does not"""
    images: int
    """of `eval`, that it was chosen on"""
    found_share: dict[str, float | None]
    """by defect class, on `eval`; `null`: `eval` has none of it"""
    false_regions_per_megapixel: float
    """of all classes together, on `eval`"""
    problems: list[str]
    """sentences: a class that `eval` does not show, a target that no threshold reaches"""
