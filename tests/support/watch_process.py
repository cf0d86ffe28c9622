"""`flexunet live watch` as a process of its own, in front of a server."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from processes import ENVIRONMENT, ROOT

from flexunet.live.observe import Seen
from flexunet.live.store import hours_since
from flexunet.serving.server import Server


class Watch:
    """The process, its ports, and what it has written."""

    def __init__(self, process: "subprocess.Popen[str]", out: Path) -> None:
        assert process.stdout is not None
        self.process, self.out = process, out
        grpc_line, rest_line = process.stdout.readline(), process.stdout.readline()
        self.grpc, self.rest = (line.split(" ")[0] for line in (grpc_line, rest_line))

    def read(self) -> tuple[list[Seen], dict[str, int]]:
        lines: list[Seen] = []
        counts: dict[str, int] = {}
        for _, more, counted in hours_since(self.out, 0.0):
            lines += more
            counts = {name: counts.get(name, 0) + number for name, number in counted.items()} | {
                name: number for name, number in counts.items() if name not in counted
            }
        return lines, counts

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait() == 0


@contextmanager
def watch_of(server: Server, out: Path, *arguments: Any) -> Iterator[Watch]:
    ports = ("--server-grpc-port", server.grpc_port, "--server-rest-port", server.rest_port)
    command = [sys.executable, "-m", "flexunet", "live", "watch", "--out", out, "--grpc-port", 0, "--rest-port", 0]
    process = subprocess.Popen(
        [str(word) for word in (*command, *ports, *arguments)],
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield Watch(process, out)
    finally:
        process.kill()
        process.wait()
