"""One line for each node of a run: those that ended stay above, what runs and what waits moves below them."""

import time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from flexunet.cli.console import is_live

if TYPE_CHECKING:
    from flexunet.history.durations import NodeStart
    from pipeline.launch import NodeResult

_STYLES: Final = {"done": "green", "cached": "cyan", "running": "bold", "waiting": "dim"}
_REFRESHES_PER_SECOND: Final = 4
# Of the column of names.
_WIDTH: Final = 17


class Board:
    """Shows a run while it goes on; where there is no terminal, a line for each node that ended.

    Use as a context; `started` and `ended` are what `local.run` calls.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._running: NodeStart | None = None
        self._since = 0.0
        # The bar of the training finds the same console and moves below these lines.
        self._live = (
            Live(self, console=console, transient=True, refresh_per_second=_REFRESHES_PER_SECOND)
            if is_live(console)
            else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running, self._running = self._running, None
        if self._live:
            self._live.stop()
        if running and kind:
            state = "FAILED" if issubclass(kind, Exception) else "stopped"
            self._console.print(_line(running.node, state, time.monotonic() - self._since, "bold red"))

    def started(self, start: "NodeStart") -> None:
        """A node begins."""
        self._running, self._since = start, time.monotonic()

    def ended(self, result: "NodeResult") -> None:
        """It was done, or came from the cache."""
        self._running = None
        state = "cached" if result.cached else "done"
        self._console.print(_line(result.node, state, result.seconds, _STYLES[state]))

    def __rich__(self) -> Group:
        if self._running is None:
            return Group()
        seconds = time.monotonic() - self._since
        line = _line(self._running.node, "running", seconds, _STYLES["running"])
        line.append(_time_left(self._running.last_seconds, seconds))
        return Group(
            line, *(Text(f"{node:<{_WIDTH}} waiting", style=_STYLES["waiting"]) for node in self._running.waiting)
        )


def _line(node: str, state: str, seconds: float, style: str) -> Text:
    return Text.assemble(f"{node:<{_WIDTH}} ", (f"{state:<7}", style), f" {seconds:6.1f} s")


def _time_left(last_seconds: float | None, seconds: float) -> str:
    """Time left by how long the node took when it last ran in this folder; the training has a bar of its own."""
    if last_seconds is None:
        return ""
    left = last_seconds - seconds
    return f"  about {left:.0f} s left" if left > 0 else f"  took {last_seconds:.0f} s last time"
