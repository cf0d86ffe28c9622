"""One process at a time in a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from pipeline.errors import UserError


def is_locked(folder: Path) -> bool:
    """Whether a process holds `folder/.lock` at this moment."""
    path = folder / ".lock"
    if not path.is_file():
        return False
    try:
        with filelock.FileLock(path, blocking=False):
            return False
    except filelock.Timeout:
        return True


@contextmanager
def locked(folder: Path, wait_seconds: float = 0) -> Iterator[None]:
    """Holds `folder/.lock`, for which it waits so long; makes the folder if it is missing.

    Raises:
      UserError: another process holds it, or the file system of the folder knows no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=wait_seconds)
    except filelock.Timeout:
        raise UserError(f"{folder}: another run is using this folder; wait for it, or name another folder") from None
    except NotImplementedError:
        raise UserError(
            f"{folder}: its file system knows no locks, expected one that does (NFS from version 4 on)"
        ) from None
    try:
        yield
    finally:
        lock.release()
