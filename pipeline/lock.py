"""One process at a time in a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from pipeline.errors import UserError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds `folder/.lock`; makes the folder if it is missing.

    Raises:
      UserError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise UserError(f"{folder}: another run is using this folder; wait for it, or name another folder") from None
    try:
        yield
    finally:
        lock.release()
