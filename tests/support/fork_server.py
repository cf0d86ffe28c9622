"""Starts Python programs as forks of one interpreter that has imported TFX, which takes each process ten seconds.

A fork runs the same code by the same arguments in the same environment; what it leaves out is the start of the
interpreter itself. TensorFlow's runtime starts in the forks.
"""

import gc
import json
import os
import runpy
import select
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class ForkServer:
    """The tests' side: asks for forks and hears who started and who ended."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lock, self._changed = threading.Lock(), threading.Condition()
        self._started: list[int] = []
        self._ended: dict[int, int] = {}
        self._listening = True
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, command: list[str], environment: Mapping[str, str], directory: Path, log: Path) -> "Fork":
        """Runs `PYTHON -m MODULE ARGUMENTS` or `PYTHON -c CODE ARGUMENTS`; stdout and stderr go to `log`."""
        assert self._process.stdin is not None
        request = {"command": command, "environment": {**environment}, "directory": str(directory), "log": str(log)}
        with self._lock, self._changed:
            before = len(self._started)
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            self._changed.wait_for(lambda: len(self._started) > before or not self._listening)
            return Fork(self._started[before], self)

    def wait(self, pid: int) -> int:
        """The exit code of a fork, once it has ended."""
        with self._changed:
            self._changed.wait_for(lambda: pid in self._ended or not self._listening)
            return self._ended[pid]

    def stop(self) -> None:
        """Ends the server; forks that still run go on."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            kind, *numbers = line.split()
            with self._changed:
                if kind == "started":
                    self._started.append(int(numbers[0]))
                else:
                    self._ended[int(numbers[0])] = int(numbers[1])
                self._changed.notify_all()
        with self._changed:
            self._listening = False
            self._changed.notify_all()


@dataclass
class Fork:
    """A process that runs or has ended."""

    pid: int
    server: ForkServer

    def wait(self) -> int:
        """The exit code, negative for a signal."""
        return self.server.wait(self.pid)


def _serve() -> None:
    """The other side: reads requests line by line, forks, tells who started and who ended."""
    # What is imported is never garbage: see pytest_collection of tests/conftest.py.
    gc.disable()
    # What the programs import.
    import components.serving_validator
    import kubeflow.attempts
    import kubeflow.database
    import pipeline.cli.outcome
    import pipeline.local
    import trainer_module.trainer
    import transform_module.preprocessing

    del components, kubeflow, pipeline, trainer_module, transform_module
    # Forks share this memory until somebody writes into it, and a garbage collection does.
    gc.collect()
    gc.freeze()
    gc.enable()
    while True:
        ready, _, _ = select.select([sys.stdin.buffer.raw], [], [], 0.05)
        if ready:
            line = _read_line()
            if not line:
                return
            request = json.loads(line)
            child = os.fork()
            if child == 0:
                _become(request)
            print("started", child, flush=True)
        _tell_who_ended()


def _read_line() -> bytes:
    """Unbuffered: select does not see what a buffer holds."""
    line = b""
    while not line.endswith(b"\n"):
        read = os.read(0, 1)
        if not read:
            return b""
        line += read
    return line


def _tell_who_ended() -> None:
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return
    if pid:
        print("ended", pid, os.waitstatus_to_exitcode(status), flush=True)


def _become(request: dict[str, Any]) -> None:
    """The program, in the place of this interpreter."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.setsid()
    os.umask(0)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    code = 0
    try:
        _run(*request["command"][1:])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001  a fork must not go on as the server
        import traceback

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(flag: str, program: str, *arguments: str) -> None:
    assert flag in ("-c", "-m")
    sys.argv = [program if flag == "-m" else "-c", *arguments]
    if flag == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    _serve()
