"""The process that looks: it may be slow, it may be killed, and what it did not see is counted."""

import asyncio
import io
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from ports import free_port
from processes import ENVIRONMENT, ROOT
from relay import relayed
from waiting import wait_until
from watch_process import watch_of

from flexunet.core.errors import UserError
from flexunet.live import metrics, proxy
from flexunet.live.exchange import Exchange
from flexunet.live.pairs import Comparer
from flexunet.live.proxy import Settings, Witness, grpc_route, rest_route
from flexunet.live.store import Kept, Store, hours_since
from flexunet.live.worker import Comparing, Looking, run

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
    # What hangs does not keep it from ending.
    monkeypatch.setattr(proxy, "_CLOSE_SECONDS", 0.2)
    os.kill(pid, signal.SIGSTOP)
    witness.tell(exchange(300_000))
    closes_soon(witness)


def closes_soon(witness: Witness) -> None:
    started = time.monotonic()
    witness.close()
    assert time.monotonic() - started < 5 and witness._process.poll() is not None


def test_looking_begins_again_where_its_process_is_killed(
    witness: Witness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "_RESTART_SECONDS", 0.1)
    # As systemd sends it to all processes of a service: the proxy decides when this one ends.
    os.kill(witness._process.pid, signal.SIGTERM)
    witness.tell(exchange())
    wait_until(lambda: counts(tmp_path)["requests"] == 2)
    os.kill(witness._process.pid, signal.SIGKILL)
    witness._process.wait()
    witness.tell(exchange())
    witness.tell(exchange())
    wait_until(lambda: counts(tmp_path) == {**counts(tmp_path), "requests": 3, "times that looking began again": 1})
    # Nor is it kept from ending by waiting to begin again.
    monkeypatch.setattr(proxy, "_RESTART_SECONDS", 1000)
    os.kill(witness._process.pid, signal.SIGKILL)
    witness._process.wait()
    witness.tell(exchange())
    closes_soon(witness)


def test_messages_that_cannot_be_read_end_the_process_that_reads_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that the proxy finds out, and begins again."""
    looking = Looking(Store(Kept(tmp_path, days=1)), "", Comparing(Comparer("127.0.0.1:1")), 0.0)
    run(io.BytesIO((2).to_bytes(4, "big") + bytes(8) + b"{}"), looking)
    assert "a message of the proxy cannot be read" in capsys.readouterr().err


class Waiting(grpc.GenericRpcHandler):
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()

    def service(self, handler_call_details: Any) -> Any:
        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.begun.set()
            self.may_end.wait()
            return request

        return grpc.unary_unary_rpc_method_handler(answer)


def test_asked_to_end_it_lets_requests_under_way_be_answered_and_takes_no_more(tmp_path: Path) -> None:
    server, handler = grpc.server(ThreadPoolExecutor(1)), Waiting()
    server.add_generic_rpc_handlers((handler,))
    served: Any = SimpleNamespace(grpc_port=server.add_insecure_port("127.0.0.1:0"), rest_port=1)
    server.start()
    with watch_of(served, tmp_path) as watch:
        address = watch.grpc.removeprefix("grpc://")
        host, port = address.split(":")
        with grpc.insecure_channel(address) as channel, socket.create_connection((host, int(port))) as idle:
            call: Any = channel.unary_unary("/a.B/C")
            answer = call.future(b"question")
            handler.begun.wait()
            watch.process.send_signal(signal.SIGTERM)
            # It has nothing under way.
            while idle.recv(1000):
                pass
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((host, int(port)))
            handler.may_end.set()
            assert answer.result() == b"question"
        assert watch.process.wait() == 0
    server.stop(None)
    assert counts(tmp_path)["requests"] == 1


REQUEST = b"GET /a HTTP/1.1\r\nHost: here\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"


def test_what_has_just_been_sent_when_it_is_asked_to_end_is_answered(tmp_path: Path) -> None:
    """In a connection that is not even taken yet, and in one of which half a request is here."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(30)
        served: Any = SimpleNamespace(grpc_port=1, rest_port=listening.getsockname()[1])
        with watch_of(served, tmp_path) as watch:
            address = ("127.0.0.1", int(watch.rest.rpartition(":")[2]))
            with socket.create_connection(address) as old:
                of_old, _ = listening.accept()
                watch.process.send_signal(signal.SIGSTOP)
                with socket.create_connection(address) as new:
                    new.sendall(REQUEST)
                    old.sendall(REQUEST[:20])
                    watch.process.send_signal(signal.SIGTERM)
                    watch.process.send_signal(signal.SIGCONT)
                    of_new, _ = listening.accept()
                    assert of_new.recv(1000) == REQUEST
                    of_new.sendall(ANSWER)
                    assert new.recv(1000) == ANSWER and new.recv(1000) == b""
                old.sendall(REQUEST[20:])
                came = b""
                while came != REQUEST:
                    came += (part := of_old.recv(1000))
                    assert part
                of_old.sendall(ANSWER)
                assert old.recv(1000) == ANSWER and old.recv(1000) == b""
            assert watch.process.wait() == 0
            of_old.close()
            of_new.close()
    assert counts(tmp_path)["requests"] == 2


def test_a_client_that_resets_before_the_server_is_reached_leaves_no_connection() -> None:
    """As health checks do every few seconds."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as listening,
        # The server's queue is full: connecting goes on.
        socket.create_connection(listening.getsockname()),
        relayed(rest_route(0, listening.getsockname()[1])) as ([port], _),
    ):
        client = socket.create_connection(("127.0.0.1", port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        time.sleep(0.2)
        listening.accept()[0].close()
        listening.settimeout(30)
        with listening.accept()[0] as upstream:
            upstream.settimeout(5)
            assert upstream.recv(1) == b""


def test_files_are_allowed_for_many_connections_where_the_system_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Mac's limit has no end, and is refused; Windows has none."""
    import resource

    asked: list[Any] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    proxy._allow_files()
    assert asked == [(proxy._FILES, resource.RLIM_INFINITY)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 512))
    proxy._allow_files()
    assert asked[1:] == [(512, 512)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**20, 2**20))
    proxy._allow_files()
    assert len(asked) == 2
    monkeypatch.setitem(sys.modules, "resource", None)
    proxy._allow_files()


def test_what_a_server_that_dies_does_not_answer_has_failed() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        relayed(rest_route(0, listening.getsockname()[1])) as ([port], recorder),
    ):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"POST /a HTTP/1.1\r\nContent-Length: 1\r\n\r\nx")
            server, _ = listening.accept()
            server.recv(1)
            server.close()
            assert client.recv(1) == b""
        wait_until(lambda: bool(recorder.exchanges))
    assert [(told.path, told.succeeded) for told in recorder.exchanges] == [("/a", False)]


def test_metrics_that_cannot_be_read_hold_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network's disk that hangs: who asks for them is let go, and requests go by meanwhile."""
    monkeypatch.setattr(metrics, "_SECONDS", 0.2)
    hanging, reading = threading.Event(), list[bool]()

    def text() -> str:
        reading.append(threading.current_thread().daemon)
        return str(hanging.wait())

    async def ask(server: asyncio.Server) -> bytes:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return answer

    async def run() -> None:
        server = await metrics.listen("127.0.0.1", 0, text)
        assert [await ask(server) for _ in range(2)] == [b"", b""]
        # One thread for both, for which the process does not wait when it ends.
        assert reading == [True]
        hanging.set()
        assert (await ask(server)).endswith(b"\r\n\r\nTrue")
        server.close()

    # In a thread of its own: a browser's tests leave a loop running in this one.
    with ThreadPoolExecutor(1) as pool:
        try:
            pool.submit(asyncio.run, run()).result()
        finally:
            hanging.set()


def test_a_taken_port_is_one_line() -> None:
    with (
        relayed(grpc_route(0, free_port())) as ([port], _),
        pytest.raises(UserError, match=f"127.0.0.1:{port}: .*expected a free port"),
        relayed(grpc_route(port, 1)),
    ):
        pytest.fail("two listen on one port")


@pytest.mark.parametrize(
    ("host", "words"), [("300.1.1.1", "no address, and no name"), ("192.0.2.1", "no address of this machine")]
)
def test_a_host_that_nobody_can_listen_on_is_no_taken_port(host: str, words: str) -> None:
    with pytest.raises(UserError, match=f"{host}: {words}.*correct --host"), relayed(grpc_route(0, 1), host=host):
        pytest.fail("it listens")
    with pytest.raises(UserError, match=f"{host}: {words}.*correct --host"), ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, metrics.listen(host, 0, lambda: "")).result()


def test_ctrl_c_writes_what_was_seen_and_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flexunet", "live", "watch", "--out", str(tmp_path), "--grpc-port", "0"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*command, "--rest-port", "0"], cwd=ROOT, env=ENVIRONMENT, text=True, **streams)
    assert process.stdout is not None and "grpc://127.0.0.1:" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, words = process.communicate()
    assert process.returncode == 130 and "interrupted; what was seen is written" in words
