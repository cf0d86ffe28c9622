"""`flexunet plan` against the presets: the same images, the same seconds, by group folds.

    make plans [IMAGES=NEU_SEG]      60 s a training, 3 recipes, 2 folds: 25 minutes on two cores, 8 more with NEU_SEG

Three kinds of generated images, and a user's where --images names them: the demo's surfaces; strips eight times as long
as wide, which become tiles; and large surfaces of which there are few. A plan may be at most 0.01 worse than a preset.
`flexunet study crossvalidate` does the work: what is finished is kept below --out, and the same command goes on. With
--cores 1 two recipes train side by side, and other work on the machine slows both; a plan is then one for half of it.
"""

import argparse
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.sources import Pair, kinds_of, write_pairs
from flexunet.core.config.load import config_from, load_config
from flexunet.core.config.whole import Config
from flexunet.core.machine import usable_cores
from flexunet.core.results.study import RecipeScores
from flexunet.dataset.ingest import ingest
from flexunet.dataset.synthetic import generate_surface

# Best minus plan, at most.
BOUND: Final = 0.01
FOLDS: Final = 2
PRESETS: Final = ("neu-seg", "demo")
# Settings `a.b=v` of a training that its budget alone ends; one of epochs comes after them.
UNENDING: Final = ("train.epochs=100000", "train.early_stopping_patience=100000", "train.preview_images=0")
# Of a preset; the images, the seconds and what a run leaves are the same for all.
_COMPARED: Final = ("image", "model", "train", "augment", "serving")


def _strip(index: int) -> Pair:
    """Eight surfaces of 64 pixels side by side."""
    pairs = [generate_surface(5, 8 * index + part, 64) for part in range(8)]
    images, class_ids = zip(*pairs, strict=True)
    return np.concatenate(images, 1), np.concatenate(class_ids, 1)


# How many, and the image and the class ids of each.
KINDS: Final[Mapping[str, tuple[int, Callable[[int], Pair]]]] = {
    "surfaces of 128x128": (240, lambda index: generate_surface(3, index, 128)),
    "strips of 64x512": (80, _strip),
    "few of 256x256": (60, lambda index: generate_surface(4, index, 256)),
}


def main() -> None:
    """Runs what is missing and prints the table; a missed bound is no error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="Folder of images and masks in the preset's classes, as one more.")
    parser.add_argument("--out", type=Path, default=Path("runs/plans"))
    parser.add_argument("--seconds", type=float, default=60.0, help="Of each training.")
    parser.add_argument("--cores", type=int, default=len(usable_cores()), help="Of each training.")
    parser.add_argument("--only", nargs="+", metavar="KIND", help="These kinds alone.")
    parser.add_argument("--presets", nargs="+", default=PRESETS, choices=PRESETS)
    arguments = parser.parse_args()
    for kind in kinds_of(arguments.only, KINDS, arguments.images):
        folder = arguments.out / kind.replace(" ", "-")
        source = _written(kind, folder) if kind in KINDS else arguments.images
        scores = _compare(source, folder, arguments.seconds, arguments.presets, arguments.cores)
        Console(width=120).print(table(kind, scores))


def _written(kind: str, folder: Path) -> Path:
    count, draw = KINDS[kind]
    write_pairs(map(draw, range(count)), count, folder / "source")
    return folder / "source"


def _compare(source: Path, out: Path, seconds: float, presets: list[str], cores: int) -> list[RecipeScores]:
    from pipeline.study.crossvalidation import Arm, crossvalidate, document
    from pipeline.study.folds import make_folds

    base = load_config("neu-seg")
    ingest(source, out / "records", base, splits="regroup", accept_losses=True)
    budget = (*UNENDING, f"train.max_seconds={seconds}")
    plan = load_config(planned(out, seconds, cores), budget)
    arms = [Arm("plan", plan), *(Arm(name, _preset(name, base, budget)) for name in presets)]
    folds = make_folds(out / "records", base, FOLDS, out)
    return document(crossvalidate(arms, folds, out, cores), folds)["recipes"]


def planned(out: Path, seconds: float, cores: int) -> Path:
    """The plan for the records below `out` and so many of the machine's cores.

    It is kept: the speed that it times, and so what it chooses, is another each time.
    """
    path = out / f"plan-{seconds:g}-{cores}.toml"
    if not path.exists():
        share = seconds * cores / len(usable_cores())
        # A process of its own: what it trains on is a GPU's whole memory.
        command = [sys.executable, "-m", "flexunet", "plan", str(out / "records"), "--out", str(path)]
        subprocess.run([*command, "--seconds", f"{share:g}"], check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    return path


def _preset(name: str, base: Config, budget: Sequence[str]) -> Config:
    """Its recipe for the classes of `base`, within the budget."""
    values = base.model_dump(mode="json", include={"classes"})
    values |= load_config(name).model_dump(mode="json", include={*_COMPARED}, exclude_unset=True)
    return config_from(values, name, budget)


def table(kind: str, recipes: list[RecipeScores]) -> Table:
    """A row for each recipe, the plan's first, and whether that is at most `BOUND` behind the best of the others."""
    result = Table("recipe", "Dice", "to the plan", "95 % interval", "epochs", "parameters", title=kind)
    for recipe in recipes:
        ends, difference = recipe["difference_interval"], recipe["difference"]
        result.add_row(
            recipe["name"],
            f"{recipe['foreground_dice'] or 0:.3f}",
            "" if difference is None else f"{difference:+.3f}",
            f"{ends[0]:+.3f} to {ends[1]:+.3f}" if ends else "",
            " ".join(str(fold["epochs"]) for fold in recipe["folds"]),
            f"{recipe['parameters']:,}",
        )
    # Undefined where a recipe has no Dice at all: no plan is as good as that.
    differences = [math.inf if recipe["difference"] is None else recipe["difference"] for recipe in recipes[1:]]
    behind = max(differences, default=0.0)
    verdict = "ok" if behind <= BOUND else "missed"
    result.caption = f"the best preset has {behind:+.3f} to the plan, at most {BOUND:+}: {verdict}"
    return result


if __name__ == "__main__":
    main()
