"""`crossvalidation.json`: what `flexunet study crossvalidate` found. None is what is undefined."""

from typing import Final, TypedDict

from flexunet.core.results.metrics import Metrics

FORMAT: Final = 1


class FoldScores(TypedDict):
    """One fold: its images, predicted by the model that was trained without them."""

    fold: int
    """from 1"""
    images: int
    groups: int
    """of near-duplicates"""
    foreground_dice: float | None
    classes: dict[str, float | None]
    """Dice by defect class"""
    epochs: int
    train_seconds: float


class RecipeScores(TypedDict):
    """A recipe over all folds, its predictions pooled."""

    name: str
    foreground_dice: float | None
    foreground_dice_interval: list[float] | None
    """95 %, over all groups"""
    classes: dict[str, float | None]
    """Dice by defect class"""
    parameters: int
    folds: list[FoldScores]
    difference: float | None
    """in foreground Dice, to the first recipe; None for the first"""
    difference_interval: list[float] | None
    """95 %, paired: on the same resamples"""


class Ensemble(TypedDict):
    """The folds' models as one, measured by the gate on `test`."""

    model: str
    """its folder"""
    metrics: Metrics


class CrossValidation(TypedDict):
    """The whole document."""

    format: int
    images: int
    groups: int
    recipes: list[RecipeScores]
    """that of `--config` first, then that of `--against`"""
    ensemble: Ensemble | None
