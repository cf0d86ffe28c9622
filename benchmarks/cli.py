"""How long `flexunet --help` takes, and that of each command, beside a Python that does nothing.

python -m benchmarks.cli
"""

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from flexunet.cli.command import walk
from flexunet.cli.main import cli

ROUNDS: Final = 5
BOUND_SECONDS: Final = 1.0


def main() -> None:
    """Prints a line for each command; raises if one takes too long."""
    program = shutil.which("flexunet", path=str(Path(sys.executable).parent)) or "flexunet"
    commands = {" ".join(["flexunet", *path, "--help"]): [program, *path, "--help"] for path, _ in walk(cli)}
    commands = {"python -c pass": [sys.executable, "-c", "pass"], **commands}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    # By turns: what else the machine does then strikes all of them alike.
    for _ in range(ROUNDS):
        for name, command in commands.items():
            seconds[name].append(timed(command))
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    show(medians)
    slow = [name for name, median in medians.items() if median > BOUND_SECONDS]
    if slow:
        raise SystemExit(f"above {BOUND_SECONDS:g} s: {', '.join(slow)}")


def timed(command: Sequence[str]) -> float:
    """Seconds of one process."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own program
    return time.perf_counter() - started


def show(medians: dict[str, float]) -> None:
    """A table: seconds, and the ratio to a Python that does nothing."""
    table = Table("command", "seconds", "to python -c pass", box=None)
    bare = medians["python -c pass"]
    for name, median in medians.items():
        table.add_row(name, f"{median:.3f}", f"{median / bare:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
