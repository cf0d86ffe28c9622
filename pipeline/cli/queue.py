"""`flexunet live queue`."""

import contextlib
from pathlib import Path
from typing import Literal

import click

from flexunet.cli.command import Command
from flexunet.cli.console import NO_LOG, captured_output
from flexunet.cli.options import EXPORT_FORMAT, PATH, empty
from flexunet.core.errors import UserError


@click.command(cls=Command)
@click.argument("root", type=PATH, metavar="ROOT")
@click.option(
    "--out", required=True, type=PATH, callback=empty, help="New folder for images and annotations, to be corrected."
)
@click.option("--count", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many, at most.")
@click.option("--watched", type=PATH, metavar="DIR", help="What `live watch` writes to.  [default: ROOT/live]")
@click.option(
    "--data", type=PATH, metavar="DIR", help="Records whose images are known.  [default: those of the model's run]"
)
@EXPORT_FORMAT
def queue(
    root: Path, out: Path, count: int, watched: Path | None, data: Path | None, kind: Literal["labelme", "coco"]
) -> None:
    """Picks watched images to label next: those that the model is least sure of, unlike each other and the records.

    Examples:
      flexunet live queue runs/mine --out to-label --count 100
    """
    from flexunet.cli.tables import bars, busy, print_warning
    from flexunet.core.root import Root
    from flexunet.serving.versions import model_directory

    version = model_directory(Root(root).serving)
    folder = (watched or Root(root).live) / "images"
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    if not files:
        raise UserError(f"{folder}: no images, expected those that `flexunet live watch --keep-images MB` keeps")
    known = data or _data_of(version)
    with captured_output(NO_LOG) as console:
        if known is None:
            print_warning("the records of the model's run are not known: near-duplicates of them stay", console)
        with busy(console, "loading TensorFlow"):
            from pipeline.queue import pick, write_queue
        with bars(console) as progress:
            picked = pick(version, files, known, count, progress("asking the model", len(files)))
        if not picked.candidates:
            raise UserError(f"{folder}: {len(files)} images, none of them new: watch longer")
        write_queue(picked, out, kind, version)
        left_out = f"{picked.known} known, {picked.alike} like another, {picked.unreadable} without an answer"
        console.print(f"{len(picked.candidates)} of {len(files)} images ({left_out}): {kind}'s annotations in {out}")


def _data_of(version: Path) -> Path | None:
    """The folder that `flexunet ingest` wrote and the version's run read; None where that is not known."""
    from flexunet.history.lineage import data_folder

    with contextlib.suppress(UserError):
        return data_folder(version, "directory")
    return None
