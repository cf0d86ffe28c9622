"""`flexunet lineage`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flexunet.cli.command import Command
from flexunet.cli.console import NO_LOG, captured_output, print_result
from flexunet.cli.options import AS_JSON, PATH

if TYPE_CHECKING:
    from rich.console import Console

    from flexunet.history.lineage import Lineage


@click.command(cls=Command)
@click.argument("model", type=PATH, metavar="MODEL_DIR")
@AS_JSON
def lineage(model: Path) -> None:
    """Tells which data, configuration, code and baseline made a pushed version.

    Examples:
      flexunet lineage runs/mine/serving_model/3
    """
    from flexunet.history.lineage import is_intact, lineage_of

    with captured_output(NO_LOG) as console:
        found = lineage_of(model)
        intact = is_intact(Path(found.version), found)
        _print_lineage(found, intact, console)
    print_result({**found.as_json(), "intact": intact})


def _print_lineage(found: "Lineage", intact: bool | None, console: "Console") -> None:
    from rich.table import Table

    from flexunet.cli.tables import copied_whole
    from flexunet.reporting.settings import settings_of

    baseline = found.baseline
    known_as = f" (version {baseline['version']})" if baseline and baseline["version"] else ""
    interval, images = found.scores.get("foreground_dice"), found.scores.get("examples")
    weights = found.imported["weights"] if found.imported else None
    facts = {
        "version": found.version,
        "known from": found.source,
        "run": found.run,
        "pushed": found.pushed,
        "pushed though refused": found.accepted_refused,
        "model": found.model,
        "sha256": "not known, nor whether files of the version were changed: none was noted at the push"
        if intact is None
        else f"{found.sha256}, {'as pushed' if intact else 'NOT as pushed: files of the version were changed'}",
        "foreground Dice": None if interval is None else f"{interval:.4f} on {images} test images",
        "baseline": f"{baseline['model']}{known_as}"
        if baseline
        else "none: no other comparable model was pushed before",
        "began with": found.base_model,
        "imported from": found.imported["directory"] if found.imported else None,
        "weights": f"{weights['file']}, sha256 {weights['sha256']}, Keras {weights['keras']}" if weights else None,
        **{f"data: {key}": value for key, value in found.data.items()},
        **{f"code: {node}": code for node, code in found.code.items()},
    }
    table = Table("what", copied_whole("value"), box=None)
    for what, value in facts.items():
        for index, line in enumerate([] if value is None else str(value).splitlines()):
            table.add_row("" if index else what, line)
    console.print(table)
    console.print("configuration, what is not the default:")
    for setting in settings_of(found.config):
        if setting.changed or setting.key.startswith("classes."):
            console.print(f"  {setting.key} = {setting.value}")
