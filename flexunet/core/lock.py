"""One process at a time in a folder."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import filelock

from flexunet.core.errors import UserError

LOCK_FILE: Final = ".lock"
_NO_LOCKS: Final = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def is_locked(folder: Path) -> bool:
    """Whether a process holds `folder/.lock` at this moment."""
    path = folder / LOCK_FILE
    if not path.is_file():
        return False
    try:
        with _lock(path, blocking=False):
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
    lock = _lock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=wait_seconds)
    except filelock.Timeout:
        raise UserError(f"{folder}: another run is using this folder; wait for it, or name another folder") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise UserError(
            f"{folder}: its file system knows no locks, expected one that does (NFS from version 4 on)"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _lock(path: Path, blocking: bool = True) -> filelock.FileLock:
    # The fallback, a file that is there or not, would outlive a killed process.
    return filelock.FileLock(path, blocking=blocking, fallback_to_soft=False)
