"""How commands show what they found: tables, bars, warnings, times."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

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
from rich.table import Column, Table
from rich.text import Text

from flexunet.cli.console import is_live
from flexunet.core.finder import LeftOut, left_out_words


def make_table(console: Console, *columns: str, numbers: tuple[str, ...] = ()) -> Table:
    """A table with a rule under its head on a terminal, bare where another program may read it."""
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, header_style="bold", show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left")
    return table


def copied_whole(name: str) -> Column:
    """A column of what people copy from the terminal: it goes on in the next line instead of being cut."""
    return Column(name, overflow="fold", min_width=26)


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


def print_left_out(left_out: Sequence[LeftOut], read: int, console: Console) -> None:
    """How many files of a folder were not read, and why; nothing where all were."""
    words = left_out_words(left_out, read)
    if words:
        console.print(Text(words))


def print_warning(words: str, console: Console) -> None:
    """A line that begins with `warning:`."""
    console.print(Text.assemble(("warning", "yellow"), f": {words}"))


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


def four_digits(value: float | None) -> str:
    """A score; a dash for what is undefined."""
    return "-" if value is None else f"{value:.4f}"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "", style="progress.data.speed")
