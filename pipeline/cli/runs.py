"""`flexunet runs`."""

import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flexunet.cli.command import Command
from flexunet.cli.console import NO_LOG, captured_output, print_result
from flexunet.cli.options import AS_JSON, ROOT
from flexunet.core.results.verdict import WORDS as VERDICTS
from flexunet.core.root import Root

if TYPE_CHECKING:
    from rich.console import Console

    from flexunet.history.runs import RunRow


@click.command(cls=Command)
@ROOT
@AS_JSON
def runs(root: Path) -> None:
    """Lists the runs of a folder, the newest first: verdict, score, version.

    Examples:
      flexunet runs --root runs/mine
      flexunet runs --root runs/mine --json
    """
    from flexunet.core.lock import is_locked
    from flexunet.history.runs import run_rows
    from flexunet.history.store import read_history

    with captured_output(NO_LOG) as console:
        rows = run_rows(read_history(root), Root(root).serving, is_locked(root))
        _print_runs(rows, console)
    print_result([row.as_json() for row in rows])


def _print_runs(rows: "list[RunRow]", console: "Console") -> None:
    from rich.table import Table

    from flexunet.cli.tables import copied_whole

    if not rows:
        console.print("no run yet")
        return
    table = Table(copied_whole("run"), "took", "verdict", "Dice", "95 % interval", "version", "report", box=None)
    for row in rows:
        ends = row.foreground_dice_interval
        table.add_row(
            row.run_id,
            str(datetime.timedelta(seconds=round(row.seconds))),
            _verdict(row),
            "-" if row.foreground_dice is None else f"{row.foreground_dice:.4f}",
            f"{ends[0]:.4f} to {ends[1]:.4f}" if ends else "-",
            _version(row),
            "freed" if row.freed else "",
        )
    console.print(table)
    _print_newest(rows[0], console)


def _verdict(row: "RunRow") -> str:
    """The verdict in words; of a run that failed also where."""
    return ": ".join([VERDICTS.get(row.verdict, row.verdict), *row.failed])


def _print_newest(row: "RunRow", console: "Console") -> None:
    """Why the last model was refused, and what to do about it."""
    for problem in row.problems:
        console.print(f"{row.run_id}: {problem}")
    if row.next_step:
        console.print(f"next: {row.next_step}")


def _version(row: "RunRow") -> str:
    """The number of its push, and what became of it."""
    if row.pushed_version is None:
        return "-"
    if row.served_as is not None:
        is_same = row.served_as == row.pushed_version
        return f"{row.pushed_version}, served" if is_same else f"{row.pushed_version}, served as {row.served_as}"
    return f"{row.pushed_version}, rolled back" if row.rolled_back else str(row.pushed_version)
