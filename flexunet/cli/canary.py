"""`flexunet live canary`, `promote` and `rollback`: a new version for a share of the requests, and how that ends."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flexunet.cli.command import Command
from flexunet.cli.console import NO_LOG, captured_output, print_result
from flexunet.cli.options import AS_JSON, PATH, VERIFY, WATCHED
from flexunet.core.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from flexunet.core.results.live import Compared
    from flexunet.serving.model_config import Named

_ROOT = click.argument("root", type=PATH, metavar="ROOT")
_HOURS = click.option(
    "--hours",
    default=24.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="The comparison is of the last so many.",
)


@click.command(cls=Command)
@_ROOT
@click.option(
    "--version",
    type=click.IntRange(min=1),
    metavar="N",
    help="Version to try.  [default: the canary there is, else the newest]",
)
@click.option(
    "--base-path",
    metavar="DIR",
    help="Where the server has the versions, such as /models/flexunet.  [default: as before, else ROOT/serving_model]",
)
@VERIFY
@WATCHED
@_HOURS
@AS_JSON
def canary(
    root: Path,
    version: int | None,
    base_path: str | None,
    public_key: Path | None,
    given: tuple[Path, ...],
    hours: float,
) -> None:
    """Names the newest version `canary` for TF Serving, and what was served before `stable`; again: how it does.

    Examples:
      flexunet live canary runs/mine
      flexunet live canary runs/mine --base-path /models/flexunet
    """
    from flexunet.live.canary import begin
    from flexunet.serving.signing import verify

    check = functools.partial(verify, public_key=public_key) if public_key else lambda folder: None
    with _named(root) as (serving, console):
        named = begin(serving, version, base_path, check)
        _tell(named, serving, root, given, hours, console)


@click.command(cls=Command)
@_ROOT
@WATCHED
@_HOURS
@AS_JSON
def promote(root: Path, given: tuple[Path, ...], hours: float) -> None:
    """Makes the canary the version that everybody asks.

    Examples:
      flexunet live promote runs/mine
    """
    from flexunet.live.canary import named_since
    from flexunet.live.canary import promote as to_all
    from flexunet.serving.model_config import read_named

    with _named(root) as (serving, console):
        before, since = read_named(serving), named_since(serving)
        named = to_all(serving)
        found = _compared(before or named, since, root, given, hours, console)
        console.print(f"version {named.stable} is stable: every request goes to it when the servers have read the file")
        print_result({**found, "stable": named.stable, "canary": None})


@click.command(cls=Command)
@_ROOT
@AS_JSON
def rollback(root: Path) -> None:
    """Gives up the canary: everybody asks the stable version, and no run pushes that model again.

    Examples:
      flexunet live rollback runs/mine
    """
    from flexunet.core.install import installed_version
    from flexunet.live.canary import give_up

    with _named(root) as (serving, console):
        named, tried, withdrawn = give_up(serving)
        # Where ML Metadata cannot be asked, the next run tells it.
        if installed_version("ml-metadata"):
            from flexunet.history.database import is_known, open_store
            from flexunet.history.pushes import record_rollbacks

            if is_known(root):
                record_rollbacks(open_store(root), serving)
        console.print(
            f"version {named.stable} is served alone again; version {tried} is "
            + (
                "rolled back: no run pushes that model again or compares with it"
                if withdrawn
                else "given up, and not rolled back: it is gone, or the same model"
            )
        )
        print_result({"stable": named.stable, "withdrawn": tried if withdrawn else None})


@contextmanager
def _named(root: Path) -> "Iterator[tuple[Path, Console]]":
    """The folder of the versions, locked as a push and a rollback lock it."""
    from flexunet.core.lock import locked
    from flexunet.core.root import Root
    from flexunet.serving.versions import LONGEST_ROLLBACK

    serving = Root(root).serving
    if not serving.is_dir():
        raise UserError(f"{serving}: no such folder, expected the ROOT of a run that pushed a model")
    with locked(serving, wait_seconds=LONGEST_ROLLBACK), captured_output(NO_LOG) as console:
        yield serving, console


def _tell(named: "Named", serving: Path, root: Path, given: tuple[Path, ...], hours: float, console: "Console") -> None:
    from flexunet.live.canary import named_since
    from flexunet.serving.model_config import CONFIG_FILE

    console.print(f"{serving / CONFIG_FILE}: version {named.stable} is stable", soft_wrap=True)
    if named.canary is None:
        console.print("no canary: a server with that file serves nothing newer until this command is run again")
        print_result({"stable": named.stable, "canary": None})
        return
    console.print(f"version {named.canary} is the canary: whoever names no label gets it, as the newest")
    print_result({**_compared(named, named_since(serving), root, given, hours, console)})


def _compared(
    named: "Named", since: float, root: Path, given: tuple[Path, ...], hours: float, console: "Console"
) -> "Compared":
    """How the two compared, said and as a document; what gave no answer counts since the canary was named."""
    import time

    from flexunet.core.root import Root
    from flexunet.live.pairs import UNANSWERED, compared, compared_words
    from flexunet.live.store import HOUR_SECONDS, counted_since, pairs_since

    begin = time.time() - hours * HOUR_SECONDS
    folders = given or (Root(root).live,)
    pairs = [pair for folder in folders for pair in pairs_since(folder, begin)]
    since = max(since, begin)
    found = compared(named, pairs, sum(counted_since(folder, since, UNANSWERED) for folder in folders))
    for line in compared_words(found):
        console.print(line)
    return found
