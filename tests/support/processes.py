"""This interpreter anew, from the root of the checkout: for what a process of its own is needed."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}


def python(*arguments: str | Path, cwd: Path = ROOT, **options: Any) -> str:
    """What `python ARGUMENTS` prints; a process that fails raises AssertionError with what it said."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
