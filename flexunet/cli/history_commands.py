"""What `flexunet report`, `runs`, `lineage` and `clean` do and print."""

import datetime
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console
from rich.table import Column, Table

from flexunet.cli.console import NO_LOG, captured_output, print_result
from flexunet.core.errors import UserError
from flexunet.core.lock import is_locked, locked

if TYPE_CHECKING:
    from flexunet.history.lineage import Lineage
    from flexunet.history.runs import RunRow

_REPORT: Final = "report"


def run_report(root: Path, against: str | None, is_opened: bool) -> None:
    """`flexunet report`. While a run goes on the page is shown as it is: the run replaces the report file by file."""
    from flexunet.reporting import files
    from flexunet.reporting.comparison import write_comparison
    from flexunet.reporting.report import read_report, write_page

    folder = root / _REPORT
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, expected the --root of a run that came to its end")
    with captured_output(NO_LOG) as console:
        if against is None:
            page = folder / files.PAGE
            if not (is_locked(root) and page.is_file()):
                page = write_page(folder)
        else:
            name, other = _other_report(root, against)
            page = write_comparison(folder, read_report(folder), read_report(other), name)
        console.print(f"report: {page}")
    if is_opened and _has_screen():
        click.launch(str(page.resolve()))


def run_runs(root: Path) -> None:
    """`flexunet runs`."""
    from flexunet.history.runs import run_rows
    from flexunet.history.store import read_history

    with captured_output(NO_LOG) as console:
        rows = run_rows(read_history(root), root / "serving_model", is_locked(root))
        _print_runs(rows, console)
    print_result([row.as_json() for row in rows])


def run_lineage(model: Path) -> None:
    """`flexunet lineage`."""
    from flexunet.history.lineage import is_intact, lineage_of

    with captured_output(NO_LOG) as console:
        found = lineage_of(model)
        intact = is_intact(Path(found.version), found)
        _print_lineage(found, intact, console)
    print_result({**found.as_json(), "intact": intact})


def run_clean(root: Path, keep: int, is_dry: bool) -> None:
    """`flexunet clean`."""
    from flexunet.history.cleaning import clean, plan_cleaning
    from flexunet.history.store import check_root

    check_root(root)
    with locked(root), captured_output(NO_LOG) as console:
        plan = plan_cleaning(root, keep)
        by_run: dict[str, list[Any]] = defaultdict(list)
        for part in plan.freed:
            by_run[part.run or "of no run"].append(part)
        for run, parts in by_run.items():
            nodes = ", ".join(dict.fromkeys(part.node for part in parts))
            console.print(f"{run}: {_megabytes(sum(part.bytes for part in parts))} of {nodes}")
        if not is_dry:
            clean(root, plan)
        verb = "would be freed; nothing was removed" if is_dry else "freed"
        console.print(f"{_megabytes(plan.bytes)} ({plan.bytes:,} bytes) {verb}; {_megabytes(plan.kept)} stay")
    folders = [{"run": part.run, "node": part.node, "folder": part.path, "bytes": part.bytes} for part in plan.freed]
    print_result({"dry_run": is_dry, "bytes": plan.bytes, "bytes_kept": plan.kept, "folders": folders})


def _other_report(root: Path, against: str) -> tuple[str, Path]:
    """A run of `root` by its id or how that begins; or a folder: of a run, or a report itself."""
    from flexunet.reporting.files import METRICS_FILE

    for folder in (Path(against) / _REPORT, Path(against)):
        if (folder / METRICS_FILE).is_file():
            return str(Path(against)), folder
    from flexunet.history.runs import find_run
    from flexunet.history.store import read_history

    run = find_run(read_history(root), against)
    assert run.report is not None
    return run.run_id, Path(run.report.uri)


def _has_screen() -> bool:
    """Not over SSH, nor in a script: a browser in the terminal would take it over."""
    return sys.stdout.isatty() and (
        sys.platform == "darwin" or any(os.environ.get(v) for v in ("DISPLAY", "WAYLAND_DISPLAY"))
    )


def _print_runs(rows: "list[RunRow]", console: Console) -> None:
    if not rows:
        console.print("no run yet")
        return
    table = Table(_whole("run"), "took", "verdict", "Dice", "95 % interval", "version", "report", box=None)
    for row in rows:
        ends = row.foreground_dice_interval
        table.add_row(
            row.run_id,
            str(datetime.timedelta(seconds=round(row.seconds))),
            row.verdict,
            "-" if row.foreground_dice is None else f"{row.foreground_dice:.4f}",
            f"{ends[0]:.4f} to {ends[1]:.4f}" if ends else "-",
            _version(row),
            "freed" if row.freed else "",
        )
    console.print(table)


def _whole(name: str) -> Column:
    """What people copy from the terminal goes on in the next line instead of being cut."""
    return Column(name, overflow="fold", min_width=26)


def _version(row: "RunRow") -> str:
    """The number of its push, and what became of it."""
    if row.pushed_version is None:
        return "-"
    if row.served_as is not None:
        is_same = row.served_as == row.pushed_version
        return f"{row.pushed_version}, served" if is_same else f"{row.pushed_version}, served as {row.served_as}"
    return f"{row.pushed_version}, rolled back" if row.rolled_back else str(row.pushed_version)


def _print_lineage(found: "Lineage", intact: bool, console: Console) -> None:
    from flexunet.reporting.settings import settings_of

    baseline = found.baseline
    known_as = f" (version {baseline['version']})" if baseline and baseline["version"] else ""
    interval = found.scores.get("foreground_dice")
    facts = {
        "version": found.version,
        "known from": found.source,
        "run": found.run,
        "pushed": found.pushed,
        "pushed though refused": found.accepted_refused,
        "model": found.model,
        "sha256": f"{found.sha256}, {'as pushed' if intact else 'NOT as pushed: files of the version were changed'}",
        "foreground Dice": None if interval is None else f"{interval:.4f} on {found.scores['examples']} test images",
        "baseline": f"{baseline['model']}{known_as}"
        if baseline
        else "none: no other comparable model was pushed before",
        "began with": found.base_model,
        **{f"data: {key}": value for key, value in found.data.items()},
        **{f"code: {node}": code for node, code in found.code.items()},
    }
    table = Table("what", _whole("value"), box=None)
    for what, value in facts.items():
        for index, line in enumerate([] if value is None else str(value).splitlines()):
            table.add_row("" if index else what, line)
    console.print(table)
    console.print("configuration, what is not the default:")
    for setting in settings_of(found.config):
        if setting.changed or setting.key.startswith("classes."):
            console.print(f"  {setting.key} = {setting.value}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
