"""`flexunet live queue`."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import click

from flexunet.cli.command import Command
from flexunet.cli.console import NO_LOG, captured_output
from flexunet.cli.options import EXPORT_FORMAT, PATH, WATCHED, empty
from flexunet.core.errors import UserError


@click.command(cls=Command)
@click.argument("root", type=PATH, metavar="ROOT")
@click.option(
    "--out", required=True, type=PATH, callback=empty, help="New folder for images and annotations, to be corrected."
)
@click.option("--count", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many, at most.")
@WATCHED
@click.option(
    "--data", type=PATH, metavar="DIR", help="Records whose images are known.  [default: those of the model's run]"
)
@EXPORT_FORMAT
def queue(
    root: Path, out: Path, count: int, given: tuple[Path, ...], data: Path | None, kind: Literal["labelme", "coco"]
) -> None:
    """Picks watched images to label next: those that the model is least sure of, unlike each other and the records.

    Examples:
      flexunet live queue runs/mine --out to-label --count 100
      flexunet live queue runs/mine --out to-label --watched watched/pod-1 --watched watched/pod-2
    """
    from flexunet.cli.tables import bars, busy, print_warning
    from flexunet.core.root import Root
    from flexunet.serving.versions import model_directory

    version = model_directory(Root(root).serving)
    folders = [watched / "images" for watched in given or (Root(root).live,)]
    files = [file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir())]
    where = " and ".join(map(str, folders))
    if not files:
        raise UserError(f"{where}: no images, expected those that `flexunet live watch --keep-images MB` keeps")
    known = data or _data_of(version)
    with captured_output(NO_LOG) as console:
        if known is None:
            print_warning("the records of the model's run are not known: near-duplicates of them stay", console)
        with _new(out.resolve()) as aside:
            with busy(console, "loading TensorFlow"):
                from pipeline.queue import pick, write_queue
            with bars(console) as progress:
                picked = pick(version, files, known, count, aside, progress("asking the model", len(files)))
            if not picked.candidates:
                raise UserError(f"{where}: {len(files)} images, none of them new: watch longer")
            write_queue(picked, aside, kind, version)
        left_out = f"{picked.known} known, {picked.alike} like another, {picked.unreadable} without an answer"
        if picked.gone:
            left_out += f", {picked.gone} removed meanwhile by their watch"
        console.print(f"{len(picked.candidates)} of {len(files)} images ({left_out}): {kind}'s annotations in {out}")


@contextlib.contextmanager
def _new(out: Path) -> Iterator[Path]:
    """A folder within `out`, empty or not there before, which gets what it holds when the body ends well: whole or not
    at all. Nothing could be renamed to `out` itself where that is a volume.

    Raises:
      UserError: another process writes there.
    """
    aside, was_there = out / ".incomplete", out.exists()
    try:
        aside.mkdir(parents=True)
    except FileExistsError:
        raise UserError(f"{out}: another process writes there, expected a new folder: name another") from None
    try:
        yield aside
        for path in aside.iterdir():
            path.rename(out / path.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if not was_there:
            # Only where it is empty.
            with contextlib.suppress(OSError):
                out.rmdir()


def _data_of(version: Path) -> Path | None:
    """The folder that `flexunet ingest` wrote and the version's run read; None where that is not known."""
    from flexunet.history.lineage import data_folder

    with contextlib.suppress(UserError):
        return data_folder(version, "directory")
    return None
