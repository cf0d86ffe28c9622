"""What the user sees: our own lines on the terminal, everything that libraries print in a log file."""

import contextlib
import ctypes
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from pipeline.errors import UserError

LOGGER_NAME = "flexunet"
_WIDTH = 200


@contextlib.contextmanager
def captured_output(log_file: Path) -> Iterator[Console]:
    """Sends file descriptors 1 and 2 to `log_file`, for C++ prints too, and gives a console on the real stdout.

    Lines of the logger `flexunet` go to both.
    """
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{log_file.parent}: {error.strerror}, expected a folder that can be made") from None
    _flush()
    real = os.dup(1), os.dup(2)
    with log_file.open("ab") as log, os.fdopen(os.dup(real[0]), "w", encoding="utf-8") as terminal:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        # Paths and class names may hold [brackets]; where there is no terminal, no width cuts a table.
        width = None if terminal.isatty() else _WIDTH
        console = Console(file=terminal, highlight=False, markup=False, soft_wrap=True, width=width)
        handlers = _attach(console, log_file)
        try:
            yield console
        finally:
            _detach(handlers)
            _flush()
            for saved, target in zip(real, (1, 2), strict=True):
                os.dup2(saved, target)
                os.close(saved)


def terminal() -> Console | None:
    """The console inside `captured_output`, if it is a terminal: for the bars of code that TFX calls."""
    handlers = [h for h in logging.getLogger(LOGGER_NAME).handlers if isinstance(h, _ConsoleHandler)]
    return next((handler.console for handler in handlers if handler.console.is_terminal), None)


class _ConsoleHandler(logging.Handler):
    """Prints records as plain lines; rich's own handler wraps them to the width of the terminal."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(self.format(record), soft_wrap=True)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)


def _attach(console: Console, log_file: Path) -> list[logging.Handler]:
    handlers = [_ConsoleHandler(console), logging.FileHandler(log_file, encoding="utf-8")]
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
