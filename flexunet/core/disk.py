"""What the system says when a file cannot be read or written, in words that tell what to do about it."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_ROOM: Final = "expected room for what is written: free some, or name a folder on another disk"
_ALLOWED: Final = "expected a file or folder that you may use: change its owner or mode, or name another"
_WORDS: Final = {
    errno.ENOSPC: f"no space left on the disk, {_ROOM}",
    errno.EDQUOT: f"the quota of the disk is used up, {_ROOM}",
    errno.EFBIG: "more than a file may hold here, expected less: raise the limit (ulimit -f), or name another disk",
    errno.EACCES: f"permission denied, {_ALLOWED}",
    errno.EPERM: f"not permitted, {_ALLOWED}",
    errno.EROFS: "on a disk that can only be read, expected one that can be written: name another folder",
    errno.ENOTDIR: "not a folder, expected one: name another",
    errno.EEXIST: "there already and not a folder, expected a folder: name another",
    errno.EISDIR: "a folder, expected a file: name another",
    errno.ENOENT: "no such file or folder, expected one: check the name",
    errno.ELOOP: "a link that leads back to itself, expected a file or folder: remove or mend it",
    errno.ENAMETOOLONG: "a name longer than the disk can hold, expected a shorter one: rename it",
}
# How libraries that give no number spell it; ML Metadata's are SQLite's.
_SPELLED: Final = {
    "No space left on device": errno.ENOSPC,
    "database or disk is full": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "Read-only file system": errno.EROFS,
    "readonly database": errno.EROFS,
    "Permission denied": errno.EACCES,
}


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError of the body names `path`, which the user knows, and not what is written aside and renamed to it."""
    try:
        yield
    except OSError as error:
        number = _number_of(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from None


def require_writable(folder: Path) -> None:
    """Finds out before long work whether `folder` can be made or written; changes nothing.

    Raises:
      OSError: it cannot; names `folder`.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    number = None
    if not there.is_dir():
        number = errno.ENOTDIR
    elif os.statvfs(there).f_flag & os.ST_RDONLY:
        number = errno.EROFS
    elif not os.access(there, os.W_OK | os.X_OK):
        number = errno.EACCES
    if number is not None:
        raise OSError(number, os.strerror(number), str(folder))


def words_of(error: OSError) -> str:
    """The line for an error of the system: which file, what, what was expected, how to repair it."""
    number = _number_of(error)
    if number not in _WORDS:
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    where = str(error.filename or "a file")
    return f"{_file_among(where) if number == errno.ENOTDIR else where}: {_WORDS[number]}"


def words_in(message: str) -> str:
    """What is wrong with the disk and what to do about it, where a library's message tells of that; else ""."""
    number = _spelled(message)
    return "" if number is None else _WORDS[number]


def _number_of(error: OSError) -> int | None:
    """Of an error that has one, or whose text tells it: that of `shutil.copytree` is a list of others."""
    return error.errno if error.errno is not None else _spelled(str(error))


def _spelled(message: str) -> int | None:
    return next((number for spelled, number in _SPELLED.items() if spelled in message), None)


def _file_among(where: str) -> str:
    """The part of a path that is not a folder, where that can be seen."""
    path = Path(where)
    return next((str(part) for part in reversed((path, *path.parents)) if part.is_file()), where)
