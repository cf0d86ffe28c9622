"""What the user sees: our own lines on the terminal, everything that libraries print in a log file."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

LOGGER_NAME = "flexunet"


@contextlib.contextmanager
def captured_output(log_file: Path) -> Iterator[Console]:
    """Sends file descriptors 1 and 2 to `log_file`, for C++ prints too, and gives a console on the real stdout.

    Lines of the logger `flexunet` go to both.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    real = os.dup(1), os.dup(2)
    with log_file.open("ab") as log, os.fdopen(os.dup(real[0]), "w", encoding="utf-8") as terminal:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        console = Console(file=terminal, highlight=False, soft_wrap=True)
        handler = _attach(console)
        try:
            yield console
        finally:
            logging.getLogger(LOGGER_NAME).removeHandler(handler)
            sys.stdout.flush()
            sys.stderr.flush()
            for saved, target in zip(real, (1, 2), strict=True):
                os.dup2(saved, target)
                os.close(saved)


def _attach(console: Console) -> logging.Handler:
    handler = RichHandler(console=console, show_time=False, show_level=False, show_path=False, markup=False)
    logger = logging.getLogger(LOGGER_NAME)
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    return handler
