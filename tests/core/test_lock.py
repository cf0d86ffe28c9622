"""One process at a time in a folder."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from flexunet.core.errors import UserError
from flexunet.core.lock import is_locked, locked


def test_one_at_a_time(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with locked(tmp_path / "runs"):
        assert is_locked(tmp_path / "runs")
        with pytest.raises(UserError, match="another run is using this folder"), locked(tmp_path / "runs"):
            pass
    assert not is_locked(tmp_path / "runs")
    with locked(tmp_path / "runs"):
        pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UserError, match="its file system knows no locks"), locked(tmp_path):
        pass
