"""Cross-validation by group: each group of `train` and `eval` is predicted once, by a model that never saw it.

All predictions are pooled into one foreground Dice with one interval over all groups. Recipes are trained on the same
folds and measured on the same resamples, so that their difference has a paired interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import tensorflow as tf

from components import derived_scores
from components.measurement import Totals
from components.totals_file import read_totals
from flexunet.core import scores
from flexunet.core.config.data import SchemaConfig, TransformConfig
from flexunet.core.config.gate import GateSettings
from flexunet.core.config.section import part_of
from flexunet.core.config.train import TrainerConfig
from flexunet.core.config.whole import Config
from flexunet.core.encoder_file import encoder_digest
from flexunet.core.errors import UserError
from flexunet.core.machine import usable_cores
from flexunet.core.results.study import FORMAT, CrossValidation, FoldScores, RecipeScores
from flexunet.core.results.training import TrainingFacts
from pipeline.fingerprint import code_fingerprint
from pipeline.study.folds import Folds, digest
from pipeline.study.runner import Training, run_missing
from pipeline.study.training import Spec, read_facts

# What decides a training, and what decides its measurement, beside configuration and data.
_TRAINS: Final = ("trainer_module.trainer", "transform_module.preprocessing")
_MEASURES: Final = ("components.totals_file", "trainer_module.export")


@dataclass(frozen=True)
class Arm:
    """A recipe by name."""

    name: str
    config: Config


@dataclass(frozen=True)
class Validated:
    """An arm whose folds are all trained and measured.

    Attributes:
      arm: the recipe.
      folders: of the trainings, one for each fold.
      settings: what it was measured with.
      totals: of each fold.
    """

    arm: Arm
    folders: list[Path]
    settings: GateSettings
    totals: list[Totals]

    @property
    def pooled(self) -> Totals:
        """Of all folds together."""
        pooled = Totals()
        for totals in self.totals:
            pooled.merge(totals, self.settings)
        return pooled

    @property
    def absent(self) -> list[str]:
        """Names of the defects of which the folds show no pixel."""
        truth = scores.margins(self.pooled.known_sums.counts).truth
        pairs = zip(self.settings.classes[1:], truth[1:], strict=True)
        return [segmentation_class.name for segmentation_class, pixels in pairs if not pixels]

    @property
    def facts(self) -> list[TrainingFacts]:
        """What the trainings of the folds left."""
        return [read_facts(folder) for folder in self.folders]


def crossvalidate(arms: Sequence[Arm], folds: Folds, out: Path, cores: int | None = None) -> list[Validated]:
    """Trains and measures what is missing below `out`, fold by fold, and gives each arm's results.

    The bootstrap is that of the first arm's `[gate]`, for all of them.

    Args:
      arms: recipes, the names of which differ.
      folds: of the first arm's configuration.
      out: gets a folder for each training.
      cores: of each training; None: all of the machine, for one training at a time.

    Raises:
      UserError: two arms have other classes, records or sources.
      NodeFailed: a training failed.
    """
    for arm in arms[1:]:
        _require_same(arms[0], arm)
    plan = _Plan(folds, out.resolve(), part_of(arms[0].config, GateSettings), cores)
    trainings = [[plan.training(arm, fold) for arm in arms] for fold in range(len(folds.sizes))]
    run_missing([one for of_fold in trainings for one in of_fold], cores)
    columns = [[of_fold[index] for of_fold in trainings] for index in range(len(arms))]
    return [
        Validated(arm, [one.directory for one in column], plan.settings, [read_totals(one.totals) for one in column])
        for arm, column in zip(arms, columns, strict=True)
    ]


def document(results: Sequence[Validated], folds: Folds) -> CrossValidation:
    """What is written of arms, the first of which is what the others are compared with."""
    first, *others = results
    return {
        "format": FORMAT,
        "images": sum(size.images for size in folds.sizes),
        "groups": sum(size.groups for size in folds.sizes),
        "recipes": [recipe_scores(first, folds), *(recipe_scores(other, folds, first) for other in others)],
        "ensemble": None,
    }


def recipe_scores(validated: Validated, folds: Folds, first: Validated | None = None) -> RecipeScores:
    """The scores of an arm, compared with those of the first if that is another."""
    pooled, settings = validated.pooled, validated.settings
    values = derived_scores.all_scores(pooled, settings)
    difference, ends = None, None
    if first is not None:
        reference = first.pooled
        theirs = derived_scores.all_scores(reference, settings)[derived_scores.FOREGROUND_DICE]
        difference = scores.defined(values[derived_scores.FOREGROUND_DICE] - theirs)
        ends = scores.defined_interval(*derived_scores.difference_interval(pooled, reference))
    names = [end(derived_scores.FOREGROUND_DICE) for end in (derived_scores.lower, derived_scores.upper)]
    return {
        "name": validated.arm.name,
        "foreground_dice": scores.defined(values[derived_scores.FOREGROUND_DICE]),
        "foreground_dice_interval": scores.defined_interval(*(values[name] for name in names)),
        "classes": _class_dice(values, settings),
        "parameters": validated.facts[0].get("parameters", 0),
        "folds": [_fold_scores(index, validated, folds) for index in range(len(validated.totals))],
        "difference": difference,
        "difference_interval": ends,
    }


class _Plan:
    """Where each training lies, by a hash of all that decides it."""

    def __init__(self, folds: Folds, out: Path, settings: GateSettings, cores: int | None) -> None:
        self.settings, self._folds, self._out = settings, folds, out
        gpus = [
            tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
            for gpu in tf.config.list_physical_devices("GPU")
        ]
        self._machine = f"{cores or len(usable_cores())} cores, {gpus}"
        self._code = code_fingerprint(_TRAINS)
        self._measure = digest([code_fingerprint(_MEASURES), settings.model_dump_json()])

    def training(self, arm: Arm, fold: int) -> Training:
        """The model that is trained without `fold`."""
        config = part_of(arm.config, TrainerConfig)
        train, steering = self._folds.tiles(part_of(arm.config, TransformConfig), fold)
        # Seconds are another budget on another machine; epochs are not.
        machine = self._machine if config.train.max_seconds is not None else ""
        encoder = encoder_digest(config.train)
        key = digest([config.training_json(), self._code, self._folds.directory.name, machine, encoder])
        spec = Spec(
            name=f"{arm.name}, fold {fold + 1}",
            config=_from_anywhere(config),
            settings=self.settings,
            train=train,
            steering=steering,
            measured=self._folds.records(fold),
            totals=f"totals-{digest([self._measure, config.serving.model_dump_json()])}.npz",
            code=self._code,
            encoder=encoder,
        )
        return Training(self._out / f"fold{fold + 1}-{key}", spec)


def _from_anywhere(config: TrainerConfig) -> TrainerConfig:
    """With the path of the encoder's weights as a process in another folder can use it."""
    if not config.train.encoder_weights:
        return config
    weights = str(Path(config.train.encoder_weights).resolve())
    return config.model_copy(update={"train": config.train.model_copy(update={"encoder_weights": weights})})


def _fold_scores(index: int, validated: Validated, folds: Folds) -> FoldScores:
    values = derived_scores.all_scores(validated.totals[index], validated.settings)
    facts = validated.facts[index]
    return {
        "fold": index + 1,
        "images": folds.sizes[index].images,
        "groups": folds.sizes[index].groups,
        "foreground_dice": scores.defined(values[derived_scores.FOREGROUND_DICE]),
        "classes": _class_dice(values, validated.settings),
        "epochs": facts.get("epochs", 0),
        "train_seconds": facts.get("train_seconds", 0.0),
    }


def _class_dice(values: Mapping[str, float], settings: GateSettings) -> dict[str, float | None]:
    names = [c.name for c in settings.classes[1:]]
    return {name: scores.defined(values[derived_scores.class_score("dice", name)]) for name in names}


def _require_same(first: Arm, other: Arm) -> None:
    # How ingest read masks is over: the records have them.
    mine, theirs = (part_of(arm.config, SchemaConfig) for arm in (first, other))
    for section in ("classes", "records"):
        if getattr(mine, section) != getattr(theirs, section):
            raise UserError(
                f"{other.name}: its {section} are not those of {first.name}, expected the same: "
                "only then are both measured on the same truth"
            )
    names = [sorted(arm.config.dataset.sources) for arm in (first, other)]
    if names[0] != names[1]:
        raise UserError(
            f"{other.name}: its dataset.sources are {names[1]}, those of {first.name} {names[0]}, expected the same; "
            "shares may differ: only then are both measured on the same images"
        )
