"""Recipes against each other on a user's images, by group folds: same images, same seconds.

    make recipes IMAGES=NEU_SEG     neu-seg, that of 0.1, the seed's recipe and a plan, 5 folds of 4 minutes
    make ablation IMAGES=NEU_SEG    what each part of the preset is worth: 11 arms, 5 folds of 2 minutes

`flexunet study crossvalidate` does the work: each group of images is predicted once by a model that never saw it, and
each arm's difference to the first has a paired interval. What is finished is kept below --out, so that the same command
goes on where it was stopped. Seconds are only as good as the machine is idle: the table tells the epochs of each fold,
and --epochs gives each arm as many as it does in those seconds on an idle one.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.plans import UNENDING, planned
from flexunet.core.config.load import load_config
from flexunet.core.config.train import AugmentConfig
from flexunet.core.config.whole import Config
from flexunet.core.results.study import RecipeScores
from flexunet.dataset.ingest import ingest

PRESET: Final = "neu-seg"
_ADAMW: Final = {"optimizer": "adamw", "learning_rate": 2e-3}
# The preset, one part changed each. What changes the answers alone trains nothing.
ABLATION: Final[Mapping[str, Mapping[str, Any]]] = {
    "neu-seg": {},
    "answers without symmetries": {"serving": {"symmetries": 1}},
    "no Dice in the loss": {"train": {"loss": "cross_entropy"}},
    "the hardest quarter of pixels": {"train": {"hardest_pixels": 0.25}},
    "flips only": {"augment": AugmentConfig(horizontal_flip=True, vertical_flip=True)},
    "no averaged weights": {"train": {"ema_decay": None}},
    "AdamW": {"train": _ADAMW},
    "cosine": {"train": {"schedule": "cosine"}},
    "half the resolution, 16 filters": {"model": {"stem_stride": 2, "base_filters": 16}},
    "kernel 5, 8 filters": {"model": {"base_kernel": 5, "base_filters": 8}},
    "standardized": {"model": {"standardize": True}},
}
# What the preset was in release 0.1.
EARLIER: Final[Mapping[str, Mapping[str, Any]]] = {
    "neu-seg of 0.1": {
        "model": {"base_kernel": 5, "base_filters": 8},
        "train": {**_ADAMW, "schedule": "cosine", "warmup_epochs": 1, "batch_norm_momentum": 0.99},
        "serving": {"symmetries": 1},
    },
}
# What `flexunet plan` writes for the images and the seconds.
PLAN: Final = "plan"
RECIPES: Final = ("neu-seg", *EARLIER, "the seed's", PLAN)


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["recipes", "ablation"])
    parser.add_argument("--images", type=Path, help="Folder of images and masks.")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--minutes", type=float, help="Of training, each fold; 4 for recipes, 2 for the ablation.")
    parser.add_argument("--epochs", type=int, nargs="+", help="Of each arm, in place of minutes: for a busy machine.")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2, help="Of each training.")
    parser.add_argument("--only", nargs="+", metavar="ARM", help="These arms alone; the first is compared with.")
    parser.add_argument("--set", nargs="+", default=[], metavar="A.B=V", help="Changes every arm.")
    arguments = parser.parse_args()
    if arguments.images is None:
        sys.exit("error: name a folder of images and masks: make recipes IMAGES=DIR")
    recipes = arguments.what == "recipes"
    arms = arguments.only or (RECIPES if recipes else tuple(ABLATION))
    minutes = arguments.minutes or (4.0 if recipes else 2.0)
    budgets = _budgets(arms, minutes, arguments.epochs)
    ingest(arguments.images, arguments.out / "records", load_config(PRESET, arguments.set), splits="regroup")
    configs = {}
    for arm, budget in zip(arms, budgets, strict=True):
        changes = [*budget, *arguments.set]
        if arm == PLAN:
            plan = load_config(planned(arguments.out, 60 * minutes, arguments.cores), changes)
            # Its own seconds end no training that --epochs ends.
            seconds = None if arguments.epochs else plan.train.max_seconds
            configs[arm] = _changed(plan, train={"max_seconds": seconds})
        else:
            configs[arm] = config_of(arm, changes)
    scores = _compare(configs, arguments.out, arguments.folds, arguments.cores)
    Console(width=150).print(table(scores, "fixed epochs" if arguments.epochs else f"{minutes:g} minutes"))


def _budgets(arms: Sequence[str], minutes: float, epochs: Sequence[int] | None) -> list[tuple[str, ...]]:
    """For each arm the settings that end its trainings."""
    if not epochs:
        return [(*UNENDING, f"train.max_seconds={60 * minutes}")] * len(arms)
    if len(epochs) != len(arms):
        sys.exit(f"error: --epochs has {len(epochs)} numbers, expected one for each arm: {', '.join(arms)}")
    return [(*UNENDING, f"train.epochs={count}") for count in epochs]


def config_of(arm: str, budget: Sequence[str]) -> Config:
    """The preset with what the arm changes; `budget` and what changes every arm are `a.b=v`."""
    preset = load_config(PRESET, budget)
    changes = {**ABLATION, **EARLIER}
    if arm in changes:
        return _changed(preset, **changes[arm])
    source = load_config("synthetic-neu-seg", budget)
    regularization = {key: getattr(source.model, key) for key in ("normalization", "dropout", "activation")}
    changed = {"train": source.train, "augment": source.augment, "model": regularization, "serving": {"symmetries": 1}}
    return _changed(preset, **changed)


def _changed(config: Config, **sections: Any) -> Config:
    def update(name: str, change: Any) -> Any:
        return getattr(config, name).model_copy(update=change) if isinstance(change, dict) else change

    return config.model_copy(update={name: update(name, change) for name, change in sections.items()})


def _compare(configs: Mapping[str, Config], out: Path, folds: int, cores: int) -> list[RecipeScores]:
    from pipeline.study.crossvalidation import Arm, crossvalidate, document
    from pipeline.study.folds import make_folds

    first = next(iter(configs.values()))
    made = make_folds(out / "records", first, folds, out)
    arms = [Arm(name, config) for name, config in configs.items()]
    return document(crossvalidate(arms, made, out, cores), made)["recipes"]


def table(recipes: list[RecipeScores], budget: str) -> Table:
    """A row for each recipe, all compared with the first."""
    classes = list(recipes[0]["classes"])
    groups = sum(fold["groups"] for fold in recipes[0]["folds"])
    title = f"foreground Dice over {groups} groups, {budget} of training a fold"
    heads = ("recipe", "Dice", "95 % interval", "to the first", "95 % interval", *classes, "epochs", "parameters")
    result = Table(*heads, title=title)
    for recipe in recipes:
        result.add_row(
            recipe["name"],
            _number(recipe["foreground_dice"]),
            _interval(recipe["foreground_dice_interval"], ""),
            _number(recipe["difference"], "+"),
            _interval(recipe["difference_interval"], "+"),
            *(_number(value) for value in recipe["classes"].values()),
            " ".join(str(fold["epochs"]) for fold in recipe["folds"]),
            f"{recipe['parameters']:,}",
        )
    return result


def _number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.3f}"


def _interval(ends: list[float] | None, sign: str) -> str:
    return f"{ends[0]:{sign}.3f} to {ends[1]:{sign}.3f}" if ends else "-"


if __name__ == "__main__":
    main()
