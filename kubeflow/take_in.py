"""The first container of `cluster/schedule`: photos that somebody left in a folder become the next span of the records.

The folder is claimed by one rename, once nothing in it changes any more, and gets the name of its span by another when
that is written: a killed step goes on with what it claimed, and photos that are refused wait there to be mended, while
new ones can come in, by whatever way.
"""

import stat
import time
from pathlib import Path
from typing import Final

import click

from flexunet.cli.ingest import ingest_and_show
from flexunet.core.config.load import load_config
from flexunet.core.errors import UserError
from flexunet.core.lock import locked
from flexunet.dataset.commit import settle
from flexunet.dataset.ingest import AlreadyIngested
from kubeflow import entry
from kubeflow.files import LONGEST_WAIT

_FOLDER = click.Path(path_type=Path, file_okay=False)
# In the folder where they stay: what is claimed, and in no span yet.
_WAITING: Final = "waiting"
# Seconds for which photos may be on their way in.
_LONGEST_COPY: Final = 3600.0


@click.command()
@click.option("--config", required=True, help="TOML file, or the name of a preset.")
@click.option("--incoming", required=True, type=_FOLDER, help="Where new photos and masks are left.")
@click.option(
    "--kept", required=True, type=_FOLDER, help="Where they stay, first as `waiting`, then span-N; on the same volume."
)
@click.option("--records", required=True, type=_FOLDER, help="OUT of `flexunet ingest`.")
@click.option(
    "--still-seconds",
    default=60.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="They are whole when nothing of them has changed for so long.",
)
def main(config: str, incoming: Path, kept: Path, records: Path, still_seconds: float) -> None:
    """Ingests new photos as the next span; without any, does nothing.

    What is wrong with them is told, and no records are written.
    """
    loaded, console = load_config(config), entry.console()
    with locked(kept):
        photos = _claimed(incoming, kept / _WAITING, still_seconds)
        if photos is None:
            console.print(f"{incoming}: nothing new")
            return
        _settle(records)
        try:
            span = ingest_and_show(photos, records, loaded, console, span="next")["span"]
        except AlreadyIngested as error:
            if (kept / f"span-{error.span}").exists():
                raise
            # An earlier step was killed when it had written them.
            span = error.span
            console.print(f"{photos}: all are in span {span}")
        photos.rename(kept / f"span-{span}")


def _settle(records: Path) -> None:
    """What a killed ingest has left is brought to its end."""
    if records.is_dir():
        with locked(records, wait_seconds=LONGEST_WAIT):
            settle(records)


def _claimed(incoming: Path, claimed: Path, still_seconds: float) -> Path | None:
    """The folder of the photos, which an earlier attempt may have claimed; None where there is nothing new."""
    if claimed.is_dir():
        return claimed
    if not _files(incoming):
        return None
    _wait_until_still(incoming, still_seconds)
    return incoming.rename(claimed)


def _wait_until_still(incoming: Path, seconds: float) -> None:
    """Photos that are still being copied would be refused, or taken for images without a mask.

    Raises:
      UserError: they never come to an end.
    """
    # rsync and others write to a hidden name first.
    ends, before = time.monotonic() + _LONGEST_COPY, _files(incoming, "*")
    while True:
        time.sleep(seconds)
        now = _files(incoming, "*")
        if now == before:
            return
        if time.monotonic() > ends:
            raise UserError(
                f"{incoming}: files still come in after {_LONGEST_COPY:.0f} s, expected photos that are whole: copy "
                "them elsewhere on the volume, then rename that folder"
            )
        before = now


def _files(incoming: Path, pattern: str = "[!.]*") -> dict[Path, tuple[int, int]]:
    """Size and time of the last change of each file, by the clock of the volume; copying sets back other times."""
    found: dict[Path, tuple[int, int]] = {}
    for path in incoming.rglob(pattern):
        try:
            facts = path.stat()
        except FileNotFoundError:
            # It has its own name now.
            continue
        if stat.S_ISREG(facts.st_mode):
            found[path] = facts.st_size, facts.st_ctime_ns
    return found


if __name__ == "__main__":
    entry.run(main)
