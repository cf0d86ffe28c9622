"""Waits for what a loaded machine may take its time for: the only limit is the one of every test, pytest-timeout's."""

import time
from collections.abc import Callable
from pathlib import Path


def wait_until(is_so: Callable[[], bool], has_ended: Callable[[], bool] = lambda: False) -> None:
    """Looks every 20 ms until `is_so`.

    Raises:
      AssertionError: what would make it so `has_ended`, and it is not.
    """
    while not is_so():
        assert not has_ended() or is_so(), "it ended before it came to that"
        time.sleep(0.02)


def epochs_in(history: Path) -> int:
    """Rows of a history.csv below its heading, those that are written whole; 0 where there is no file yet."""
    return max(0, history.read_text().count("\n") - 1) if history.is_file() else 0
