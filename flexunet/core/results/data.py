"""`drift.json` and `data.json`: the records of a run, and what moved since the span before."""

from typing import TypedDict


class DriftFinding(TypedDict):
    """How far a feature's distribution over `train` moved."""

    feature: str
    """its name in the records"""
    distance: float
    """Jensen-Shannon divergence, 0 to 1"""
    threshold: float
    """what it may be"""
    moved: bool
    """whether it is more"""


class Drift(TypedDict):
    """`drift.json`."""

    compared_with_span: int | None
    """`null` where there is no earlier one"""
    features: list[DriftFinding]


class Brightness(TypedDict):
    """Histogram of the mean grey levels, 0 to 255, of a split's images."""

    mean: float
    edges: list[float]
    """of the bins, one more than there are counts"""
    counts: list[int]
    """images in each"""


class SplitFacts(TypedDict):
    """Images and labelled pixels of a split, as the records hold them."""

    images: int
    images_with: dict[str, int]
    """by class"""
    pixels: dict[str, int]
    """by class"""
    shares: dict[str, float | None]
    """of the labelled pixels, by class; `null` where there are none"""
    ignored_pixels: int
    """that nobody labelled"""


class Data(TypedDict):
    """`data.json` of a report."""

    span: int | None
    """the newest one read"""
    splits: dict[str, SplitFacts]
    brightness: dict[str, Brightness]
    """by split; none for records that do not tell it"""
    drift: Drift
