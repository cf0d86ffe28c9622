"""`flexunet ingest`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import click

from flexunet.cli.command import Command, set_options, spelled
from flexunet.cli.console import NO_LOG, captured_output, print_result
from flexunet.cli.options import AS_JSON, CONFIG, LAYOUT, NO_MASK, PATH, SET
from flexunet.core.files import JsonObject

if TYPE_CHECKING:
    from rich.console import Console

    from flexunet.core.config.whole import Config
    from flexunet.dataset.ingest import Ingested
    from flexunet.dataset.splits import SplitPolicy


class IngestOptions(TypedDict, total=False):
    """How a source is read: see `flexunet.dataset.ingest.ingest`."""

    splits: "SplitPolicy | None"
    skip_bad: bool
    check_only: bool
    span: int | Literal["next"]
    metadata: Path | None
    layout_name: str | None
    no_mask_is_background: bool
    accept_losses: bool


class SpanType(click.ParamType):
    """A number from 1 on, or "next"."""

    name = "N|next"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | Literal["next"]:
        """The number as int."""
        if value == "next":
            return "next"
        return click.IntRange(min=1).convert(value, param, ctx)


@click.command(cls=Command, interrupted="no version was written in part")
@click.argument("source", type=PATH)
@click.argument("out", type=PATH)
@CONFIG
@SET
@click.option("--check", "check_only", is_flag=True, help="Checks everything, writes nothing.")
@click.option(
    "--splits",
    type=click.Choice(["keep", "regroup"]),
    help="Keeps the splits that the source has, or assigns groups anew.",
)
@click.option("--skip-bad", is_flag=True, help="Leaves bad pairs out; they are counted and listed.")
@click.option("--metadata", type=PATH, metavar="CSV", help="Table whose columns become slices; one of them is `stem`.")
@click.option(
    "--span",
    default="1",
    show_default=True,
    type=SpanType(),
    help="Number of the span that is written; a new number, or `next`, adds data beside the old.",
)
@LAYOUT
@NO_MASK
@click.option(
    "--accept-losses", is_flag=True, help="Goes on though half of a class's regions vanish at the model's size."
)
@AS_JSON
def ingest(source: Path, out: Path, config: str, overrides: tuple[str, ...], **options: Unpack[IngestOptions]) -> None:
    """Turns folders of images and masks (SOURCE) into records (OUT).

    Examples:
      flexunet ingest photos records --config mine.toml --check
      flexunet ingest photos records --config mine.toml
      flexunet ingest new-photos records --config mine.toml --span next --metadata cameras.csv
      flexunet ingest labelled records --config mine.toml --layout coco
    """
    from flexunet.core.config.load import load_config

    loaded = load_config(config, overrides)
    with captured_output(NO_LOG) as console:
        found = ingest_and_show(source, out, loaded, console, **options)
        if found["path"] is None:
            console.print("next: the same without --check")
        else:
            _print_next(found["span"], out, config, loaded, overrides, console)
    print_result(found)


def _print_next(
    span: int, out: Path, config: str, loaded: "Config", overrides: Sequence[str], console: "Console"
) -> None:
    """The run that follows; and that it leaves other data out, where the config says so by being silent."""
    if span > 1 and loaded.dataset.spans == 1:
        console.print(f"a run reads span {span} alone, as dataset.spans = 1 says; all of them with dataset.spans=all")
    root = f"runs/{Path(config).stem}"
    console.print(f"next: {spelled('run', '--config', config, '--data', out, '--root', root, *set_options(overrides))}")


def ingest_and_show(
    source: Path, out: Path, config: "Config", console: "Console", **options: Unpack[IngestOptions]
) -> JsonObject:
    """What the manifest says of the span, and where its version lies, None if nothing was written; prints both."""
    from flexunet.cli.tables import bars
    from flexunet.dataset.ingest import ingest
    from flexunet.reporting.data import PICTURE

    with bars(console) as progress:
        done = ingest(source, out, config, progress=progress, **options)
    _print_ingested(done, [c.name for c in config.classes], console)
    if done.version is not None:
        console.print(f"what they look like: {out / PICTURE}")
    return {**done.manifest, "path": done.version, "unchanged": done.unchanged}


def _print_ingested(done: "Ingested", class_names: Sequence[str], console: "Console") -> None:
    """What was found in a source: layout, what was left out, images and pixels by split."""
    from flexunet.cli.tables import make_table, print_left_out, print_warning

    manifest = done.manifest
    console.print(done.layout.description)
    print_left_out(done.layout.left_out, done.layout.files_read, console)
    for key, what in (("skipped", "skipped"), ("left_out", "left out")):
        if manifest[key]:
            console.print(f"{len(manifest[key])} {what}:")
        for line in manifest[key]:
            console.print(f"{what}: {line}")
    for note in manifest["notes"]:
        print_warning(note, console)
    for words in manifest["read"]["words"]:
        console.print(words)
    for words in manifest["warnings"]:
        print_warning(words, console)
    for pair in manifest["duplicates"]["different_masks"]:
        names, agreement = " and ".join(pair["images"]), pair["agreement"]
        print_warning(f"{names} are one image, their masks agree by {agreement:.1%}", console)
    figures = ("images", "groups", *class_names)
    table = make_table(console, "split", *figures, numbers=figures)
    for split, facts in manifest["splits"].items():
        total = sum(facts["pixels"].values()) or 1
        shares = [f"{facts['pixels'][name] / total:.2%}" for name in class_names]
        table.add_row(split, str(facts["images"]), str(facts["groups"]), *shares)
    console.print(table)
    if manifest["leaking_groups"]:
        print_warning(f"{manifest['leaking_groups']} groups are in more than one split: scores will flatter", console)
    if done.version is None:
        console.print("checked; nothing was written")
    else:
        console.print(f"records {'unchanged' if done.unchanged else 'written'}: {done.version}")
