"""What the commands have in common that train a recipe's folds."""

from typing import Final

import click

RESUMES: Final = "finished trainings are kept, and one that had begun goes on after its last finished epoch"
FOLDS: Final = click.option(
    "--folds", "fold_count", type=click.IntRange(2, 20), default=5, show_default=True, help="How many, of whole groups."
)
CORES: Final = click.option(
    "--cores", type=click.IntRange(min=1), help="Cores of each training.  [default: all, one at a time]"
)
