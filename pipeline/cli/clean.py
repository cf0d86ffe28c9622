"""`flexunet clean`."""

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flexunet.cli.command import Command
from flexunet.cli.console import NO_LOG, captured_output, print_result
from flexunet.cli.options import AS_JSON, ROOT

if TYPE_CHECKING:
    from flexunet.history.cleaning import Freed


@click.command("clean", cls=Command)
@ROOT
@click.option(
    "--keep",
    required=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of the newest finished runs that stay.",
)
@click.option("--dry-run", is_flag=True, help="Says what would be freed, removes nothing.")
@AS_JSON
def clean(root: Path, keep: int, dry_run: bool) -> None:
    """Frees the disk of old runs; what a pushed version, the baseline or a kept run needs stays.

    Examples:
      flexunet clean --root runs/mine --keep 3 --dry-run
      flexunet clean --root runs/mine --keep 3
    """
    from flexunet.core.lock import locked
    from flexunet.history.cleaning import free, plan_cleaning
    from flexunet.history.database import check_root

    check_root(root)
    with locked(root), captured_output(NO_LOG) as console:
        plan = plan_cleaning(root, keep)
        by_run: dict[str, list[Freed]] = defaultdict(list)
        for part in plan.freed:
            by_run[part.run or "of no run"].append(part)
        for run, parts in by_run.items():
            nodes = ", ".join(dict.fromkeys(part.node for part in parts))
            console.print(f"{run}: {_megabytes(sum(part.bytes for part in parts))} of {nodes}")
        if not dry_run:
            free(root, plan)
        verb = "would be freed; nothing was removed" if dry_run else "freed"
        console.print(f"{_megabytes(plan.bytes)} ({plan.bytes:,} bytes) {verb}; {_megabytes(plan.kept)} stay")
    folders = [{"run": part.run, "node": part.node, "folder": part.path, "bytes": part.bytes} for part in plan.freed]
    print_result({"dry_run": dry_run, "bytes": plan.bytes, "bytes_kept": plan.kept, "folders": folders})


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
