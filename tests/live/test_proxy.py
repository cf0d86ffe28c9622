"""The process that looks: it may be slow, it may be killed, and what it did not see is counted."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ports import free_port
from processes import ENVIRONMENT, ROOT
from relay import relayed
from waiting import wait_until

from flexunet.core.errors import UserError
from flexunet.live import proxy
from flexunet.live.exchange import Exchange
from flexunet.live.proxy import Settings, Witness, grpc_route
from flexunet.live.store import Kept, hours_since

MISSED = "not looked at: too many at once"


def exchange(size: int = 0) -> Exchange:
    return Exchange("grpc", "/a.B/C", {}, bytes(size), b"", True, time.time(), 0.1)


def counts(folder: Path) -> dict[str, int]:
    return {name: number for _, _, counted in hours_since(folder, 0.0) for name, number in counted.items()}


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    looking = Witness(Settings("127.0.0.1", "127.0.0.1", [grpc_route(0, 0)], Kept(tmp_path, days=1)))
    looking.tell(exchange())
    wait_until(lambda: counts(tmp_path).get("requests") == 1)
    yield looking
    looking.close()


def test_what_looking_cannot_keep_up_with_is_counted(
    witness: Witness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "_MOST_WAITING", 400_000)
    pid = witness._process.pid
    os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    for _ in range(50):
        witness.tell(exchange(100_000))
    assert time.monotonic() - started < 1
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: counts(tmp_path).get("requests", 0) >= 4)
    witness.tell(exchange())
    wait_until(lambda: MISSED in counts(tmp_path))
    wait_until(lambda: counts(tmp_path)["requests"] + counts(tmp_path)[MISSED] == 52)
    assert counts(tmp_path)["without images: another method"] == counts(tmp_path)["requests"]


def test_looking_begins_again_where_its_process_is_killed(
    witness: Witness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "_RESTART_SECONDS", 0.1)
    os.kill(witness._process.pid, signal.SIGKILL)
    witness._process.wait()
    witness.tell(exchange())
    witness.tell(exchange())
    wait_until(lambda: counts(tmp_path) == {**counts(tmp_path), "requests": 2, "times that looking began again": 1})


def test_a_taken_port_is_one_line() -> None:
    with (
        relayed(grpc_route(0, free_port())) as ([port], _),
        pytest.raises(UserError, match=f"127.0.0.1:{port}: .*expected a free port"),
        relayed(grpc_route(port, 1)),
    ):
        pytest.fail("two listen on one port")


def test_ctrl_c_writes_what_was_seen_and_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flexunet", "live", "watch", "--out", str(tmp_path), "--grpc-port", "0"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*command, "--rest-port", "0"], cwd=ROOT, env=ENVIRONMENT, text=True, **streams)
    assert process.stdout is not None and "grpc://127.0.0.1:" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, words = process.communicate()
    assert process.returncode == 130 and "interrupted; what was seen is written" in words
