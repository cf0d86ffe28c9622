"""One process at a time in a folder."""

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flexunet.core.errors import UserError
from flexunet.core.lock import LOCK_FILE, is_locked, locked

NOBODY = 65534


def test_one_at_a_time(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with locked(tmp_path / "runs"):
        assert is_locked(tmp_path / "runs")
        with pytest.raises(UserError, match="another run is using this folder"), locked(tmp_path / "runs"):
            pass
    assert not is_locked(tmp_path / "runs")
    with locked(tmp_path / "runs"):
        pass


@contextmanager
def as_one_who_may_only_read(file: Path) -> Iterator[None]:
    file.chmod(0o444)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        with pytest.raises(PermissionError):
            file.open("r+")
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_others_may_ask_too() -> None:
    # Not in tmp_path, which only its owner may enter.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with locked(folder), as_one_who_may_only_read(folder / LOCK_FILE):
            assert is_locked(folder)
        with as_one_who_may_only_read(folder / LOCK_FILE):
            assert not is_locked(folder)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UserError, match="its file system knows no locks"), locked(tmp_path):
        pass
