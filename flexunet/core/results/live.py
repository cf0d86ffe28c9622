"""What `flexunet live drift` found, `drift.json`, and how a canary does. None is what is not known."""

from typing import Final, Literal, TypedDict

FORMAT: Final = 1


class Moved(TypedDict):
    """A number of the images that were served, against those that the model was tried on."""

    feature: str
    """such as brightness"""
    camera: str
    """value of the header that tells cameras apart; empty: all together"""
    measure: Literal["distance", "ratio"]
    """of Kolmogorov and Smirnov, 0 to 1; or, of yes and no, the shares' ratio, 999 at most"""
    value: float
    interval: list[float]
    """of the measure: 99.9 % for a distance, 99 % for a ratio"""
    bound: float
    """which the whole interval must be beyond for an alarm; a ratio's inverse counts as well"""
    moved: bool
    images: int
    """that were served"""
    now: list[float]
    """10 %, 50 % and 90 % of them lie below; of yes and no the share"""
    before: list[float]
    """likewise, in the reference"""


class LiveDrift(TypedDict):
    """The whole document."""

    format: int
    version: int
    """of the model, that is served"""
    hours: list[str]
    """first and last hour with images, in UTC; empty: none"""
    requests: int
    """in these hours"""
    images: int
    """likewise"""
    sampled: int
    """of these images, those whose numbers were kept"""
    other_versions: int
    """of these, those that another version answered, which are left out"""
    notes: dict[str, int]
    """what else was counted, such as requests that failed or were not looked at"""
    reference_images: int
    """held out from the model's training, which it was tried on"""
    moved: bool
    """whether anything did"""
    findings: list[Moved]
    """what moved first"""


class ComparedClass(TypedDict):
    """In how many images each of two versions shows a class."""

    stable: int
    canary: int
    only_stable: int
    only_canary: int


class Compared(TypedDict):
    """Two versions on the same images, the stable one first in each pair of numbers."""

    format: int
    stable: int
    """its version"""
    canary: int | None
    """its version; `null`: there is none"""
    images: int
    """that both were asked of"""
    other_versions: int
    """images that another pair of versions answered, such as an earlier canary's, which are left out"""
    untold_versions: int
    """images where an answer did not tell which version gave it, which are left out"""
    not_answered: int
    """times that one of the two gave no answer at all, in the hours since the canary was named"""
    refused: list[int]
    """of them"""
    same_pixels: float | None
    """share of the pixels that both give the same class, the mean over the images"""
    least_same_pixels: float | None
    """in the image where they differ most"""
    confidence: list[float] | None
    """mean"""
    median_seconds: list[float] | None
    """from request to answer, as the watch asked"""
    classes: dict[str, ComparedClass]
    """of defects, by name"""
