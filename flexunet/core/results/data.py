"""`drift.json` and `data.json`: the records of a run, and what moved since the spans before."""

from typing import TypedDict


class DriftFinding(TypedDict):
    """How far the distribution of a number of the images moved."""

    feature: str
    """such as brightness"""
    distance: float
    """0 to 1, by `measure`; of near-duplicates their share"""
    threshold: float
    """what it may be"""
    moved: bool
    """whether it is more"""
    now: float | None
    """median in the newest span, of yes and no the share; `null` where it is not known"""
    before: float | None
    """likewise, in the spans before"""


class Drift(TypedDict):
    """`drift.json`: the newest span alone against those before it."""

    compared_with_spans: list[int]
    """none where there is no earlier one"""
    measure: str
    """of the distance: Kolmogorov-Smirnov, or, for records that `flexunet ingest` did not write, Jensen-Shannon"""
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
