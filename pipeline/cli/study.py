"""`flexunet study`: what one run is too little for."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from flexunet.cli.command import CommandGroup, set_options, spelled
from flexunet.cli.console import captured_output, print_result
from flexunet.cli.options import AS_JSON, CONFIG, DATA, PATH, ROOT, SET
from flexunet.core.errors import UserError
from flexunet.core.root import Root
from pipeline.cli.folds import CORES, FOLDS, RESUMES, trained_folds
from pipeline.cli.suspects import suspects

if TYPE_CHECKING:
    from rich.console import Console

    from flexunet.core.config.whole import Config
    from flexunet.core.results.study import CrossValidation, Ensemble, RecipeScores
    from flexunet.core.results.tuning import Tuning
    from pipeline.cli.outcome import Refusal
    from pipeline.study.crossvalidation import Validated
    from pipeline.study.folds import Folds


@click.group(cls=CommandGroup)
def study() -> None:
    """Compares recipes, searches for better ones, finds wrong masks.

    docs/how-to/best-model.md, docs/how-to/wrong-labels.md

    Examples:
      flexunet study tune --config mine.toml --data records --root runs/mine
      flexunet study crossvalidate --config mine.toml --data records --out runs/folds
      flexunet study suspects --config mine.toml --data records --out runs/folds
    """


study.add_command(suspects)
_SPACE: Final = (
    "[tune.space] train.learning_rate = {low = 3e-4, high = 1e-2, log = true}, model.base_filters = [8, 16, 24]"
)


@study.command(interrupted=RESUMES)
@CONFIG
@DATA
@click.option("--out", required=True, type=PATH, help="Folder of the trainings; what is finished there is kept.")
@FOLDS
@click.option("--against", metavar="C", help="Another config, trained on the same folds and compared.")
@click.option("--ensemble", is_flag=True, help="Exports the folds' models as one, which the gate measures on test.")
@CORES
@SET
@AS_JSON
def crossvalidate(
    config: str,
    data: Path,
    out: Path,
    fold_count: int,
    against: str | None,
    ensemble: bool,
    cores: int | None,
    overrides: tuple[str, ...],
) -> None:
    """Predicts each group of train and eval once, by a model that never saw it; test stays out.

    `--set` changes both configs. Exits with 2 or 4 if an ensemble is refused.

    Examples:
      flexunet study crossvalidate --config mine.toml --data records --out runs/folds
      flexunet study crossvalidate --config mine.toml --data records --out runs/folds --against other.toml
      flexunet study crossvalidate --config mine.toml --data records --out runs/folds --ensemble
    """
    from flexunet.core.config.load import load_config

    configs = [load_config(name, overrides) for name in (config, *([against] if against else []))]
    recipes = dict(zip(_arm_names(config, against), configs, strict=True))
    with trained_folds(recipes, data, fold_count, out, cores) as (results, folds, console):
        document, refusal = _told(results, folds, data if ensemble else None, out, console)
    print_result(document)
    if refusal:
        raise refusal


@study.command(interrupted="finished trials are kept, and one that had begun goes on after its last finished epoch")
@CONFIG
@DATA
@ROOT
@SET
@AS_JSON
def tune(config: str, data: Path, root: Path, overrides: tuple[str, ...]) -> None:
    """Tries settings within [tune]'s space and seconds, steered by eval; writes the best to ROOT/tuned.toml.

    `flexunet run` with the same config and root trains with the best: the search is in the cache then.

    Examples:
      flexunet study tune --config mine.toml --data records --root runs/mine
      flexunet study tune --config mine.toml --data records --root runs/mine --set tune.seconds=20000
    """
    from flexunet.cli.tables import busy, print_warning
    from flexunet.core.beam import prepare_beam
    from flexunet.core.config.beam import BEAM_NODES
    from flexunet.core.config.load import load_config
    from flexunet.core.files import replace_text
    from flexunet.core.lock import locked
    from flexunet.dataset.compatible import check_data
    from pipeline.cli.run import log_file, shown_nodes

    loaded = load_config(config, overrides)
    if not loaded.tune.space.by_key():
        raise UserError(f"{config}: no [tune.space], expected what to try: {_SPACE}")
    warning = check_data(data, loaded)
    log = log_file(root)
    with locked(root), captured_output(log) as console:
        if warning:
            print_warning(warning, console)
        with busy(console, "loading TFX"):
            from pipeline import local
        prepare_beam(loaded.beam, (), BEAM_NODES)
        with shown_nodes(root, console, log) as board:
            document = local.tune(loaded, data, root, (), board.ended, board.started)
        path = Root(root).tuned
        replace_text(path, _tuned_toml(loaded, document))
        _print_trials(document, console)
        # Other settings would be another search.
        follow = spelled("run", "--config", config, "--data", data, "--root", root, *set_options(overrides))
        console.print(f"written: {path}; next: {follow}")
    print_result(document)


def _tuned_toml(config: "Config", document: "Tuning") -> str:
    """The configuration with the best values, and without the search."""
    from flexunet.core.config.write import to_toml

    best = document["trials"][document["best"] - 1]
    values = config.model_dump(mode="json", exclude_unset=True, exclude={"tune"})
    for key, value in best["values"].items():
        section, _, name = key.partition(".")
        values.setdefault(section, {})[name] = value
    words = dict.fromkeys(best["values"], f"the best of {len(document['trials'])} trials")
    return to_toml(values, words, ["Written by `flexunet study tune`."])


def _print_trials(document: "Tuning", console: "Console") -> None:
    from flexunet.cli.tables import four_digits, make_table, print_warning
    from flexunet.reporting.search import in_words, ranked

    trials = document["trials"]
    keys = list(trials[0]["values"])
    figures = ("trial", *keys, "epochs", "seconds", "eval foreground Dice")
    table = make_table(console, *figures, "", numbers=figures)
    for row in ranked(trials):
        values = [in_words(value) for value in row["values"].values()]
        numbers = [str(row["epochs"]), f"{row['seconds']:,.0f}", four_digits(row["foreground_dice"])]
        table.add_row(str(row["trial"]), *values, *numbers, row["problem"] or "")
    console.print(table)
    # Why is in the table, and what the search itself warned of, if it ran and was not found in the cache.
    failed = sum(row["foreground_dice"] is None for row in trials)
    told = f"{len(trials)} trials{f', {failed} of which failed,' if failed else ''}"
    spent = sum(row["seconds"] for row in trials)
    console.print(f"{told} in {spent:,.0f} of {document['budget_seconds']:,.0f} s")
    if len(trials) == 1:
        print_warning("the budget held one trial: raise tune.seconds or lower tune.trial_seconds", console)


def _told(
    results: Sequence["Validated"], folds: "Folds", data: Path | None, out: Path, console: "Console"
) -> tuple["CrossValidation", "Refusal | None"]:
    """Prints and writes what was found; an ensemble is judged on the test split of `data`, none where that is None."""
    from flexunet.core.files import write_json
    from pipeline.study import crossvalidation

    document, refusal = crossvalidation.document(results, folds), None
    for recipe in document["recipes"]:
        _print_recipe(recipe, document["recipes"][0]["name"], console)
    _print_cautions(results, console)
    if data is not None:
        document["ensemble"], refusal = _judge(results[0], data, out, console)
    write_json(out / "crossvalidation.json", document)
    return document, refusal


def _print_cautions(results: Sequence["Validated"], console: "Console") -> None:
    from flexunet.cli.tables import print_warning

    if absent := results[0].absent:
        words = "a recipe that predicts one has a Dice of 0 there, which weighs as much as that of any class"
        print_warning(f"train and eval show no pixel of {', '.join(absent)}: {words}", console)
    for result in results:
        if target := result.arm.config.operating_point.target:
            words = "folds and ensemble have no thresholds, every pixel has its most probable class"
            print_warning(f"{result.arm.name}: operating_point.target, {target!r}, is left out: {words}", console)


def _arm_names(config: str, against: str | None) -> list[str]:
    """Two files of one name are told apart by their folders."""
    if against is None:
        return [Path(config).stem]
    short = [Path(config).stem, Path(against).stem]
    return short if len(set(short)) > 1 else [config, f"{against}, the second" if against == config else against]


def _print_recipe(recipe: "RecipeScores", first: str, console: "Console") -> None:
    from flexunet.cli.tables import four_digits, make_table

    figures = ("images", "groups", "foreground Dice", *recipe["classes"], "epochs", "seconds")
    table = make_table(console, "fold", *figures, numbers=figures)
    for fold in recipe["folds"]:
        dice = [four_digits(value) for value in (fold["foreground_dice"], *fold["classes"].values())]
        numbers = [f"{fold['images']:,}", f"{fold['groups']:,}"]
        table.add_row(str(fold["fold"]), *numbers, *dice, str(fold["epochs"]), f"{fold['train_seconds']:,.0f}")
    console.print(f"{recipe['name']}: {recipe['parameters']:,} parameters")
    console.print(table)
    groups = sum(fold["groups"] for fold in recipe["folds"])
    classes = ", ".join(f"{name} {four_digits(value)}" for name, value in recipe["classes"].items())
    words = f"foreground Dice {four_digits(recipe['foreground_dice'])}{_interval(recipe['foreground_dice_interval'])}"
    console.print(f"{words} over {groups:,} groups ({classes})")
    if recipe["difference"] is not None:
        ends = _interval(recipe["difference_interval"], "+")
        console.print(f"{recipe['difference']:+.4f} to {first}{ends}, on the same resamples")


def _interval(ends: list[float] | None, sign: str = "") -> str:
    return f", 95 % interval {ends[0]:{sign}.4f} to {ends[1]:{sign}.4f}" if ends else ""


def _judge(validated: "Validated", data: Path, out: Path, console: "Console") -> tuple["Ensemble", "Refusal | None"]:
    from flexunet.cli.tables import busy
    from pipeline.cli.outcome import print_checks, print_next_step, print_scores, refusal_of
    from pipeline.study.ensemble import judge_ensemble

    model = out / "ensemble"
    with busy(console, f"measuring {model} on test"):
        metrics, details = judge_ensemble(validated, data, model, out / "report")
    console.print(f"{len(validated.folders)} models as one: {model}")
    print_scores(metrics, details, console)
    print_checks(metrics, details, console)
    print_next_step(metrics, console)
    return {"model": str(model), "metrics": metrics}, refusal_of(metrics)
