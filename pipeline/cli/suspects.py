"""`flexunet study suspects`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import click

from flexunet.cli.command import Command
from flexunet.cli.console import print_result
from flexunet.cli.options import AS_JSON, CONFIG, DATA, EXPORT_FORMAT, PATH, SET, empty
from pipeline.cli.folds import CORES, FOLDS, RESUMES, trained_folds

if TYPE_CHECKING:
    from rich.console import Console

    from flexunet.core.results.suspects import Suspects
    from pipeline.study.crossvalidation import Validated
    from pipeline.study.folds import Folds
    from pipeline.study.suspects import SuspectImage

# In the terminal; the page has all that were asked for.
_PRINTED: Final = 10


@click.command(cls=Command, interrupted=RESUMES)
@CONFIG
@DATA
@click.option("--out", required=True, type=PATH, help="Folder of the trainings; those of `crossvalidate` are kept.")
@FOLDS
@click.option(
    "--count", type=click.IntRange(1, 1000), default=50, show_default=True, help="Masks on the page and in the export."
)
@click.option(
    "--export", type=PATH, metavar="DIR", callback=empty, help="New folder for images and annotations, to be corrected."
)
@EXPORT_FORMAT
@CORES
@SET
@AS_JSON
def suspects(
    config: str,
    data: Path,
    out: Path,
    fold_count: int,
    count: int,
    export: Path | None,
    kind: Literal["labelme", "coco"],
    cores: int | None,
    overrides: tuple[str, ...],
) -> None:
    """Ranks the masks of train and eval by how little a model believes them that never saw them.

    Examples:
      flexunet study suspects --config mine.toml --data records --out runs/folds
      flexunet study suspects --config mine.toml --data records --out runs/folds --count 100 --export to-correct
    """
    from flexunet.core.config.load import load_config

    recipe = {Path(config).stem: load_config(config, overrides)}
    with trained_folds(recipe, data, fold_count, out, cores) as ([validated], folds, console):
        found, shown = _found(validated, folds, count, console)
        _written(found, shown, validated, out, console)
        if export is not None:
            _exported(shown, export, kind, validated, console)
    print_result(found)


def _found(
    validated: "Validated", folds: "Folds", count: int, console: "Console"
) -> tuple["Suspects", list["SuspectImage"]]:
    from flexunet.cli.tables import bars
    from pipeline.study.suspects import find_suspects

    with bars(console) as progress:
        step = progress("judging masks", sum(size.images for size in folds.sizes))
        return find_suspects(validated, folds, count, step)


def _written(
    found: "Suspects", shown: Sequence["SuspectImage"], validated: "Validated", out: Path, console: "Console"
) -> None:
    from flexunet.cli.tables import four_digits, make_table
    from flexunet.core.config.section import part_of
    from flexunet.core.config.train import TrainerConfig
    from flexunet.core.files import replace_text, write_json
    from flexunet.reporting.suspects import SUSPECTS_PAGE, render_suspects

    config = part_of(validated.arm.config, TrainerConfig)
    write_json(out / "suspects.json", found)
    page = render_suspects(found, [image.shown(config) for image in shown], validated.settings)
    replace_text(out / SUSPECTS_PAGE, page)
    table = make_table(console, "image", "quality", "marked", "predicted", "pixels", numbers=("quality", "pixels"))
    for row in found["suspects"][: min(_PRINTED, len(shown))]:
        names = row["labelled"] or "-", row["predicted"] or "-"
        table.add_row(row["id"], four_digits(row["quality"]), *names, f"{row['pixels']:,}")
    console.print(table)
    unlabelled = f"; {found['unlabelled']:,} without a labelled pixel have no quality" if found["unlabelled"] else ""
    console.print(f"{len(shown)} of {found['images']:,} masks to look at again{unlabelled}: {out / SUSPECTS_PAGE}")


def _exported(
    shown: Sequence["SuspectImage"],
    export: Path,
    kind: Literal["labelme", "coco"],
    validated: "Validated",
    console: "Console",
) -> None:
    from pipeline.study.suspects import export_suspects

    left_out = export_suspects(shown, export, kind, validated.arm.config)
    words = f"; {left_out} with unlabelled pixels, which annotations cannot tell, left out" if left_out else ""
    console.print(f"{len(shown) - left_out} images with {kind}'s annotations of their masks{words}: {export}")
