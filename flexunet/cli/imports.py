"""`flexunet import`: takes over what an existing FlexUNet project has."""

import shlex
from pathlib import Path
from typing import Final

import click

from flexunet.cli.command import Command, SectionedGroup
from flexunet.cli.console import NO_LOG, captured_output, print_result
from flexunet.cli.options import AS_JSON, FILE, NEW_CONFIG

_SECTIONS: Final = {
    "Commands": {"config": "flexunet.cli.imports:import_config", "model": "pipeline.cli.import_model:import_model"}
}


@click.group("import", cls=SectionedGroup, sections=_SECTIONS)
def imports() -> None:
    """Takes over what an existing FlexUNet project has: docs/how-to/flexunet-projects.md.

    Examples:
      flexunet import config train_eval_infer.config --out mine.toml
      flexunet import model best_model.h5 --config mine.toml imported
    """


@click.command("config", cls=Command)
@click.argument("file", type=FILE)
@NEW_CONFIG
@click.option("--names", metavar="A,B,...", help="Names of the classes, the background first.")
@click.option("--as-written", is_flag=True, help="Takes the file's words where the original's code did something else.")
@AS_JSON
def import_config(file: Path, out: Path, names: str | None, as_written: bool) -> None:
    """Turns a train_eval_infer.config into a TOML configuration, and says what is not exactly as it was.

    Examples:
      flexunet import config train_eval_infer.config --out mine.toml
      flexunet import config train_eval_infer.config --out mine.toml --names background,rust,crack --as-written
    """
    from flexunet.cli.tables import print_warning
    from flexunet.core.config import imported
    from flexunet.core.files import replace_text

    given = tuple(name.strip() for name in names.split(",")) if names else ()
    found = imported.import_config(file, as_written, given)
    replace_text(out, found.toml)
    written = f"--config {shlex.quote(str(out))}"
    commands = [command.replace("--config CONFIG", written) for command in found.commands]
    with captured_output(NO_LOG) as console:
        for note in found.notes:
            print_warning(note, console)
        console.print(f"written: {out}; {len(found.notes)} differences were told")
        for command in commands:
            console.print(f"next: {command}")
    print_result({"config": out, "differences": list(found.notes), "next": commands})
