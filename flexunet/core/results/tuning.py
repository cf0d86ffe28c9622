"""`tuning.json`: what a search for better settings tried. None is what is undefined."""

from typing import Final, TypedDict

from flexunet.core.config.section import Scalar

FORMAT: Final = 1


class Trial(TypedDict):
    """One training of a search."""

    trial: int
    """from 1, in the order in which they began"""
    values: dict[str, Scalar]
    """by key of the configuration"""
    foreground_dice: float | None
    """on `eval`, of the epoch whose weights were kept; None for a trial that failed"""
    epochs: int
    seconds: float
    problem: str | None
    """why it failed"""


class Tuning(TypedDict):
    """The whole document."""

    format: int
    budget_seconds: float
    trials: list[Trial]
    best: int
    """the trial whose values Trainer takes"""
