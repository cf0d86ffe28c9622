"""Measurements in processes of their own, which nothing measured before has warmed or filled."""

import json
import subprocess
import sys
from typing import Any


def told_by(module: str, *arguments: object) -> Any:
    """The JSON document that a module of ours prints last, run with these arguments.

    Raises:
      CalledProcessError: it failed.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # noqa: S603
    return json.loads(done.stdout.splitlines()[-1])
