"""`flexunet demo`."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from flexunet.cli.command import Command
from flexunet.cli.console import captured_output
from flexunet.cli.options import AS_JSON, PATH, SET
from pipeline.cli.run import RESUMES, log_file, run_and_show

if TYPE_CHECKING:
    from rich.console import Console

    from flexunet.core.config.whole import Config

IMAGES: Final = 480
SIZE: Final = 128
SEED: Final = 137


@click.command(cls=Command, interrupted=RESUMES)
@click.option("--root", default="runs/demo", type=PATH, show_default=True, help="Folder of the run.")
@SET
@AS_JSON
def demo(root: Path, overrides: tuple[str, ...]) -> None:
    """Runs the whole pipeline on generated steel surfaces.

    Examples:
      flexunet demo
      flexunet demo --root /tmp/demo --set train.epochs=5
    """
    from flexunet.cli.ingest import ingest_and_show
    from flexunet.core.config.load import load_config
    from flexunet.core.lock import locked
    from pipeline.cli.outcome import conclude

    config = load_config("demo", overrides)
    surfaces, records = root / "data" / "surfaces", root / "data" / "records"
    log = log_file(root)
    with locked(root), captured_output(log) as console:
        _generate(surfaces, config, console)
        ingest_and_show(surfaces, records, config, console)
        metrics, refusal = run_and_show(config, records, root, (), console, log)
    conclude(metrics, refusal)


def _generate(surfaces: Path, config: "Config", console: "Console") -> None:
    from flexunet.cli.tables import bars
    from flexunet.dataset.synthetic import write_surfaces

    if not surfaces.is_dir():
        console.print(f"generating {IMAGES} steel surfaces of {SIZE}x{SIZE} in {surfaces}")
        aside = surfaces.with_name(f".{surfaces.name}.incomplete")
        with bars(console) as progress:
            step = progress("generating", IMAGES)
            write_surfaces(aside, IMAGES, SIZE, [c.color for c in config.classes], SEED, step)
        aside.rename(surfaces)
