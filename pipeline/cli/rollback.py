"""`flexunet rollback`."""

from pathlib import Path

import click

from flexunet.cli.command import Command, spelled
from flexunet.cli.console import NO_LOG, captured_output, print_result
from flexunet.cli.options import AS_JSON, ROOT
from flexunet.core.errors import UserError
from flexunet.core.root import Root


@click.command(cls=Command)
@ROOT
@click.option("--to", type=click.IntRange(min=1), metavar="N", help="Version to restore, instead of the one before.")
@click.option(
    "--keep",
    type=click.IntRange(min=2),
    help="Number of the newest versions that stay.  [default: as at the last push]",
)
@AS_JSON
def rollback(root: Path, to: int | None, keep: int | None) -> None:
    """Serves an earlier model again, under a higher version number; also while a run trains.

    Examples:
      flexunet rollback --root runs/mine
      flexunet rollback --root runs/mine --to 3
    """
    from flexunet.core.lock import locked
    from flexunet.history.database import is_known, open_store
    from flexunet.history.pushes import record_rollbacks
    from flexunet.serving.versions import LONGEST_ROLLBACK, finish_rollback, last_retention, roll_back
    from pipeline.cli.outcome import print_if_named

    serving = Root(root).serving
    if not serving.is_dir():
        raise UserError(f"{serving}: no such folder, expected the --root of a run that pushed a model")
    # Not the run's folder: whoever must roll back cannot wait until a training has ended. Its Pusher waits for this.
    with locked(serving, wait_seconds=LONGEST_ROLLBACK), captured_output(NO_LOG) as console:
        mirror = last_retention(serving).mirror
        above = _newest_mirrored(mirror)
        done = roll_back(serving, to, keep, above)
        # On a cluster, where the variables of its database are not set, the next run tells it.
        if is_known(root):
            record_rollbacks(open_store(root), serving)
        if mirror:
            _mirror(done.version, mirror, keep or last_retention(serving).versions)
        finish_rollback(serving)
        console.print(
            f"version {done.restored} is served again as version {done.version.name}; version {done.withdrawn} is "
            "rolled back: no run pushes that model again or compares with it"
        )
        print_if_named(root, console)
        console.print(f"to bring it back: {spelled('rollback', '--root', root, '--to', done.withdrawn)}")
    print_result({"version": int(done.version.name), "restored": done.restored, "withdrawn": done.withdrawn})


def _newest_mirrored(store: str) -> int:
    if not store:
        return 0
    from components.mirror import newest_mirrored  # it imports TFX

    return newest_mirrored(store)


def _mirror(version: Path, store: str, keep: int | None) -> None:
    from components.mirror import mirror_version

    try:
        mirror_version(version, store, keep)
    except UserError as error:
        raise UserError(
            f"{error}; version {version.name} is served from {version.parent} already, the same command again copies it"
        ) from error
