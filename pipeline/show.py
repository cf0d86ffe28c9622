"""How commands show what they found: tables, bars, scores, checks."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from pipeline.console import is_live
from pipeline.finder import LeftOut, left_out_words


def make_table(console: Console, *columns: str, numbers: tuple[str, ...] = ()) -> Table:
    """A table with a rule under its head on a terminal, bare where another program may read it."""
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, header_style="bold", show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left")
    return table


@contextlib.contextmanager
def bars(console: Console) -> Iterator[Callable[[str, int], Callable[..., None]]]:
    """Progress bars with rate and time left; nothing where the output is no terminal.

    What starts a bar gives the function that moves it one step and may change its words.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not is_live(console)) as progress:

        def start(what: str, steps: int) -> Callable[..., None]:
            task = progress.add_task(what, total=steps)
            return lambda now=what: progress.update(task, advance=1, description=now)

        yield start


@contextlib.contextmanager
def busy(console: Console, what: str) -> Iterator[None]:
    """A spinner with the seconds so far, for work whose length nobody knows."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not is_live(console)) as progress:
        progress.add_task(what, total=None)
        yield


def print_scores(metrics: dict[str, Any], details: dict[str, Any], console: Console) -> None:
    """Scores of each class, the headline with its interval, and what to be careful about."""
    scores = ("dice", "iou", "precision", "recall")
    heads = ("Dice", "IoU", "precision", "recall", "pixels")
    table = make_table(console, "class", *heads, numbers=heads)
    for name, row in metrics["classes"].items():
        values = [_four(row[key]) for key in scores]
        table.add_row(name, *values, "-" if row["pixels"] is None else f"{row['pixels']:,.0f}")
    console.print(table)
    ends = metrics["foreground_dice_interval"]
    interval = f", 95 % interval {_four(ends[0])} to {_four(ends[1])}" if ends else ""
    console.print(
        f"foreground Dice {_four(metrics['foreground_dice'])}{interval} on {metrics['examples']} test images "
        f"(pixel accuracy {_four(metrics['pixel_accuracy'])}, the seed's Dice {_four(metrics['seed_dice'])})"
    )
    found, alarms = metrics["defects"]["found_share"], metrics["defects"]["false_alarm_share"]
    console.print(f"defects found {_four(found)}; false alarms on images without defect {_four(alarms)}")
    for warning in details["warnings"]:
        print_warning(warning, console)


def print_ingested(done: Any, class_names: Sequence[str], console: Console) -> None:
    """What was found in a source, `dataset.ingest.Ingested`: layout, what was left out, images and pixels by split."""
    manifest = done.manifest
    console.print(done.layout.description)
    print_left_out(done.layout.left_out, done.layout.files_read, console)
    for note in manifest["notes"]:
        print_warning(note, console)
    for key, what in (("skipped", "skipped"), ("left_out", "left out")):
        if manifest[key]:
            console.print(f"{len(manifest[key])} {what}:")
        for line in manifest[key]:
            console.print(f"{what}: {line}")
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


def print_checks(metrics: dict[str, Any], details: dict[str, Any], console: Console) -> None:
    """Each check of the gate in words; of a refused model also the images that it is worst on."""
    for check in metrics["gate"]:
        verdict = ("passed", "green") if check["passed"] else ("FAILED", "bold red")
        console.print(Text.assemble(verdict, f": {check['words']}"))
    if not metrics["blessed"] and details["images"]["worst"]:
        worst = ", ".join(f"{image['id']} (Dice {image['dice']:.4f})" for image in details["images"]["worst"])
        console.print(f"worst images: {worst}")


def print_left_out(left_out: Sequence[LeftOut], read: int, console: Console) -> None:
    """How many files of a folder were not read, and why; nothing where all were."""
    words = left_out_words(left_out, read)
    if words:
        console.print(Text(words))


def print_warning(words: str, console: Console) -> None:
    """A line that begins with `warning:`."""
    console.print(Text.assemble(("warning", "yellow"), f": {words}"))


def failures(metrics: dict[str, Any]) -> str:
    """The failed checks in one line."""
    return "; ".join(check["words"] for check in metrics["gate"] if not check["passed"])


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile in milliseconds, by name; empty if there was no answer."""
    import numpy as np

    if not seconds:
        return {}
    half, most = np.quantile(seconds, (0.5, 0.95)) * 1000
    return {"p50_ms": round(float(half), 1), "p95_ms": round(float(most), 1)}


def quantile_words(seconds: Sequence[float]) -> str:
    """The same in words."""
    found = quantiles(seconds)
    return f"p50 {found['p50_ms']:.0f} ms, p95 {found['p95_ms']:.0f} ms" if found else "no answer yet"


def _four(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "", style="progress.data.speed")
