"""`suspects.json`: what `flexunet study suspects` found."""

from typing import Final, TypedDict

FORMAT: Final = 1


class Suspect(TypedDict):
    """A labelled image, predicted by the model that was trained without it."""

    id: str
    """as in the records"""
    fold: int
    """that held it out, from 1"""
    quality: float
    """of its mask, between 0 and 1: the soft minimum over its pixels of the probability of their class"""
    labelled: str | None
    """class of the largest disagreement in the mask; None: mask and prediction are the same"""
    predicted: str | None
    """class of it in the prediction"""
    pixels: int
    """of it"""
    share: float
    """of it, in the labelled pixels"""


class Suspects(TypedDict):
    """The whole document."""

    format: int
    images: int
    """of `train` and `eval`"""
    unlabelled: int
    """of them without a labelled pixel, which have no quality"""
    suspects: list[Suspect]
    """all others, the likeliest to be wrong first"""
