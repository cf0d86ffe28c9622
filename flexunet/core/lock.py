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
    """Whether a process holds `folder/.lock` at this moment; asked also by those who may only read the folder."""
    # Windows has none: this module is imported there, runs are not.
    import fcntl

    path = folder / LOCK_FILE
    if not path.is_file():
        return False
    with path.open("rb") as file:
        try:
            # FileLock opens for writing, and holds an exclusive `flock`, which no shared one goes beside.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return True
    return False


@contextmanager
def locked(folder: Path, wait_seconds: float = 0) -> Iterator[None]:
    """Holds `folder/.lock`, for which it waits so long; makes the folder if it is missing.

    Raises:
      UserError: another process holds it, or the file system of the folder knows no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The fallback, a file that is there or not, would outlive a killed process.
    lock = filelock.FileLock(folder / LOCK_FILE, fallback_to_soft=False)
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
