"""Programs that Go builds from its module proxy; what is built is kept between runs."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CACHE = Path.home() / ".cache" / "flexunet-tests"
OLDEST_GO = (1, 24)


def go(*arguments: str, cwd: Path | None = None, oldest: tuple[int, int] = OLDEST_GO, **environment: str) -> str:
    """What `go ARGUMENTS` prints; a test is skipped where there is no Go, or an older one than these programs need."""
    program = shutil.which("go")
    version = subprocess.run([program, "version"], capture_output=True, text=True, check=True).stdout if program else ""
    found = re.search(r"go(\d+)\.(\d+)", version)
    if program is None or found is None or tuple(map(int, found.groups())) < oldest:
        pytest.skip(f"needs Go {oldest[0]}.{oldest[1]} or newer on the PATH")
    done = subprocess.run(
        [program, *arguments], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
