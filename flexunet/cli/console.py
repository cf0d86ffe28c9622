"""What the user sees: our own lines on the terminal, everything that libraries print in a log file."""

import contextlib
import ctypes
import json
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import click
from rich.console import Console

from flexunet.cli.options import JSON, VERBOSE, wanted
from flexunet.core import progress
from flexunet.core.errors import UserError
from flexunet.core.progress import step_of

LOGGER_NAME = "flexunet"
# Commands without a run: what libraries print is dropped, exceptions still reach the terminal.
NO_LOG: Final = Path(os.devnull)
_WIDTH = 200
_FOLLOW_SECONDS: Final = 0.1


def print_result(value: object) -> None:
    """Prints what the command found as one document on stdout, with `--json`; else nothing: lines have told it."""
    if wanted(JSON):
        click.echo(json.dumps(value, indent=2, allow_nan=False, default=str))


@contextlib.contextmanager
def captured_output(log_file: Path) -> Iterator[Console]:
    """Sends file descriptors 1 and 2 to `log_file`, for C++ prints too, and gives a console on the real stdout.

    Lines of the logger `flexunet` go to both. With `--verbose` the terminal gets the whole log, with `--json` the
    console is on stderr.
    """
    verbose = wanted(VERBOSE)
    with _log_file(log_file, verbose) as log_file:
        _flush()
        real = os.dup(1), os.dup(2)
        shown = os.dup(real[1] if wanted(JSON) else real[0])
        with log_file.open("ab") as log, os.fdopen(shown, "w", encoding="utf-8", errors="backslashreplace") as terminal:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            # Paths and class names may hold [brackets]; where there is no terminal, no width cuts a table.
            width = None if terminal.isatty() else _WIDTH
            console = Console(file=terminal, highlight=False, markup=False, soft_wrap=True, width=width)
            handlers = _attach(console, log_file, verbose)
            try:
                with _followed(log_file, console) if verbose else drawn_steps(console):
                    yield console
            finally:
                _detach(handlers)
                _flush()
                for saved, target in zip(real, (1, 2), strict=True):
                    os.dup2(saved, target)
                    os.close(saved)


def is_live(console: Console) -> bool:
    """Whether bars can move: on a terminal, and not among the lines of a whole log."""
    return console.is_terminal and not wanted(VERBOSE)


class _ConsoleHandler(logging.Handler):
    """Prints records as plain lines; rich's own handler wraps them to the width of the terminal."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(self.format(record), soft_wrap=True)


class _StepHandler(logging.Handler):
    """Draws the steps that nodes tell as one bar a task, with the time left."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        # A tenth of a second of imports, for those who see a bar.
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress, self._tasks = Progress(*columns, console=console, transient=True), {}

    def emit(self, record: logging.LogRecord) -> None:
        step = step_of(record)
        if step is None:
            return
        if step.ended:
            self.end()
            return
        if step.task not in self._tasks:
            self._progress.start()
            self._tasks[step.task] = self._progress.add_task(step.task, total=step.total, completed=step.done)
        self._progress.update(self._tasks[step.task], completed=step.done, description=step.words or step.task)

    def end(self) -> None:
        """Ends all bars, also that of a task that raised: the terminal's cursor would stay hidden."""
        self._progress.stop()
        for task in self._tasks.values():
            self._progress.remove_task(task)
        self._tasks.clear()


@contextlib.contextmanager
def drawn_steps(console: Console) -> Iterator[None]:
    """Steps become bars on a terminal; elsewhere nobody watches, and nobody tells."""
    if not is_live(console):
        yield
        return
    handler = _StepHandler(console)
    progress.LOGGER.addHandler(handler)
    progress.LOGGER.setLevel(logging.DEBUG)
    progress.LOGGER.propagate = False
    try:
        yield
    finally:
        handler.end()
        progress.LOGGER.removeHandler(handler)
        progress.LOGGER.setLevel(logging.NOTSET)
        progress.LOGGER.propagate = True


@contextlib.contextmanager
def _log_file(wanted_file: Path, verbose: bool) -> Iterator[Path]:
    """The file itself, its folder made; one that goes away again where a log is shown and not kept."""
    if wanted_file == NO_LOG and verbose:
        with tempfile.TemporaryDirectory() as directory:
            yield Path(directory) / "log"
        return
    try:
        wanted_file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{wanted_file.parent}: {error.strerror}, expected a folder that can be made") from None
    yield wanted_file


@contextlib.contextmanager
def _followed(log_file: Path, console: Console) -> Iterator[None]:
    """Shows what is added to the log. Read from the file: a full pipe would stop whoever prints under Python's lock."""
    ended = threading.Event()
    with log_file.open("rb") as log:
        log.seek(0, os.SEEK_END)
        thread = threading.Thread(target=_follow, args=(log, console, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            _flush()
            ended.set()
            thread.join()


def _follow(log: BinaryIO, console: Console, ended: threading.Event) -> None:
    while True:
        is_last = ended.is_set()
        text = log.read().decode(errors="replace")
        if text:
            console.out(text, end="", highlight=False)
        if is_last:
            return
        ended.wait(_FOLLOW_SECONDS)


def _flush() -> None:
    """What does not fit on a full disk is lost: Python would keep it, and show it on the terminal afterwards."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())
            stream.flush()
    ctypes.CDLL(None).fflush(None)


def _attach(console: Console, log_file: Path, verbose: bool) -> list[logging.Handler]:
    handlers: list[logging.Handler] = [logging.FileHandler(log_file, encoding="utf-8")]
    if not verbose:
        handlers.append(_ConsoleHandler(console))
    logger = logging.getLogger(LOGGER_NAME)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in handlers:
        logger.addHandler(handler)
    return handlers


def _detach(handlers: list[logging.Handler]) -> None:
    logger = logging.getLogger(LOGGER_NAME)
    logger.propagate = True
    for handler in handlers:
        logger.removeHandler(handler)
        handler.close()
