"""What the commands have in common that train a recipe's folds."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from flexunet.cli.console import captured_output

if TYPE_CHECKING:
    from rich.console import Console

    from flexunet.core.config.whole import Config
    from pipeline.study.crossvalidation import Validated
    from pipeline.study.folds import Folds

RESUMES: Final = "finished trainings are kept, and one that had begun goes on after its last finished epoch"
FOLDS: Final = click.option(
    "--folds", "fold_count", type=click.IntRange(2, 20), default=5, show_default=True, help="How many, of whole groups."
)
CORES: Final = click.option(
    "--cores", type=click.IntRange(min=1), help="Cores of each training.  [default: all, one at a time]"
)


@contextmanager
def trained_folds(
    recipes: Mapping[str, "Config"], data: Path, count: int, out: Path, cores: int | None
) -> Iterator[tuple[list["Validated"], "Folds", "Console"]]:
    """Trains and measures what is missing below `out`, which is locked meanwhile and gets what is logged.

    Args:
      recipes: by name; the first decides the folds.
      data: what `flexunet ingest` wrote.
      count: of the folds.
      out: gets a folder for each training.
      cores: of each training; None: all of the machine, for one training at a time.

    Yields:
      The results in the order of `recipes`, the folds, and the console that stays the user's.

    Raises:
      UserError: the records do not fit, there are too few groups, or recipes that cannot be compared.
      NodeFailed: a training failed.
    """
    from flexunet.cli.tables import busy, print_warning
    from flexunet.core.lock import locked
    from flexunet.dataset.compatible import check_data

    first = next(iter(recipes.values()))
    warning = check_data(data, first)
    with locked(out), captured_output(out / "study.log") as console:
        if warning:
            print_warning(warning, console)
        with busy(console, "loading TensorFlow"):
            from pipeline.study.crossvalidation import Arm, crossvalidate
            from pipeline.study.folds import make_folds
        with busy(console, "assigning groups to folds"):
            folds = make_folds(data, first, count, out)
        arms = [Arm(name, config) for name, config in recipes.items()]
        yield crossvalidate(arms, folds, out, cores), folds, console
