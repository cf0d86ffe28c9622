"""`flexunet report`."""

import os
import sys
from pathlib import Path

import click

from flexunet.cli.command import Command
from flexunet.cli.console import NO_LOG, captured_output, print_result
from flexunet.cli.options import AS_JSON, ROOT
from flexunet.core.errors import UserError
from flexunet.core.files import read_json
from flexunet.core.root import ReportFolder, Root


@click.command(cls=Command)
@ROOT
@click.option(
    "--against", metavar="RUN", help="Another run to compare with: its id, the beginning of its id, or a folder."
)
@click.option("--no-open", is_flag=True, help="Only writes the page; it opens by itself on a desktop.")
@AS_JSON
def report(root: Path, against: str | None, no_open: bool) -> None:
    """Rebuilds and opens the report of the last run.

    While a run goes on the page is shown as it is: the run replaces the report file by file.

    Examples:
      flexunet report --root runs/mine
      flexunet report --root runs/mine --against 2026-11-24T09
      flexunet report --root runs/mine --no-open --json
    """
    from flexunet.core.lock import is_locked
    from flexunet.reporting.comparison import write_comparison
    from flexunet.reporting.report import read_report, write_page

    folder, other = Root(root).report, None
    if not folder.path.is_dir():
        raise UserError(f"{folder.path}: no such folder, expected the --root of a run that came to its end")
    with captured_output(NO_LOG) as console:
        if against is None:
            page = folder.page
            if not (is_locked(root) and page.is_file()):
                page = write_page(folder)
        else:
            name, other = _other_report(root, against)
            page = write_comparison(folder, read_report(folder), read_report(other), name)
        console.print(f"report: {page}")
    compared = {"report": other.path, "metrics": read_json(other.metrics)} if other else None
    print_result({"page": page, "metrics": read_json(folder.metrics), "against": compared})
    if not no_open and _has_screen():
        click.launch(str(page.resolve()))


def _other_report(root: Path, against: str) -> tuple[str, ReportFolder]:
    """A run of `root` by its id or how that begins; or a folder: of a run, or a report itself."""
    for folder in (Root(Path(against)).report, ReportFolder(Path(against))):
        if folder.metrics.is_file():
            return str(Path(against)), folder
    from flexunet.history.runs import find_run
    from flexunet.history.store import read_history

    run = find_run(read_history(root), against)
    assert run.report is not None
    return run.run_id, ReportFolder(Path(run.report.uri))


def _has_screen() -> bool:
    """Not over SSH, nor in a script: a browser in the terminal would take it over."""
    return sys.stdout.isatty() and (
        sys.platform == "darwin" or any(os.environ.get(v) for v in ("DISPLAY", "WAYLAND_DISPLAY"))
    )
