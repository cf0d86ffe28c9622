"""What is read along the way, of gRPC's own client and server and of HTTP's; and that no byte is changed by it."""

import gzip
import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest
import urllib3
from relay import relayed
from waiting import wait_until

from flexunet.live.exchange import Exchange
from flexunet.live.proxy import grpc_route, rest_route
from flexunet.live.taps import GrpcTap, RestTap, Room, UnreadableError

CALL = "/some.Service/Call"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# A frame without content: settings.
FRAME = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


class Reversing(grpc.GenericRpcHandler):
    """Answers a message backwards, `fail` with a code."""

    def service(self, handler_call_details: Any) -> Any:
        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if request == b"fail":
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no more")
            return request[::-1]

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture(scope="module")
def grpc_server() -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((Reversing(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None)


def test_calls_of_grpc_are_read_whole_and_answered_as_without(grpc_server: int):
    messages = [random.Random(size).randbytes(size) for size in (0, 1, 100, 16384, 70000, 3_000_000)] * 5
    with (
        relayed(grpc_route(0, grpc_server), camera_header="X-Camera") as ([port], recorder),
        grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.max_receive_message_length", -1)]) as channel,
        ThreadPoolExecutor(8) as pool,
    ):
        call: Any = channel.unary_unary(CALL)
        metadata = [("x-camera", "line 3"), ("x-secret", "none of ours")]
        answers = [*pool.map(lambda message: call(message, metadata=metadata), messages)]
        assert answers == [message[::-1] for message in messages]
        with pytest.raises(grpc.RpcError) as refused:
            call(b"fail")
        assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "no more")
        wait_until(lambda: len(recorder.exchanges) == len(messages) + 1)
    *told, failed = sorted(recorder.exchanges, key=lambda exchange: not exchange.succeeded)
    assert sorted(e.request[5:] for e in told) == sorted(messages)
    assert all(e.answer[5:] == e.request[:4:-1] and e.path == CALL and e.seconds > 0 for e in told)
    assert {tuple(e.headers.items()) for e in told} == {(("x-camera", "line 3"),)}
    assert not failed.succeeded and failed.request[5:] == b"fail"
    assert recorder.notes == []


class Telling(BaseHTTPRequestHandler):
    """Answers a body backwards, packed where the client takes that."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))[::-1]
        packed = "gzip" in self.headers.get("Accept-Encoding", "")
        content = gzip.compress(body) if packed else body
        self.send_response(404 if self.path == "/missing" else 200)
        if packed:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing."""


def test_requests_of_rest_are_read_whole():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Telling)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with relayed(rest_route(0, server.server_address[1])) as ([port], recorder):
        pool = urllib3.PoolManager(maxsize=1)
        url = f"http://127.0.0.1:{port}"
        expected = []
        for path, body, headers in (
            ("/one", b"a" * 10, {}),
            ("/two", random.Random(0).randbytes(1_000_000), {}),
            ("/packed", b"b" * 5000, {"Accept-Encoding": "gzip"}),
            ("/waits", b"c" * 100, {"Expect": "100-continue"}),
            ("/missing", b"", {}),
        ):
            response = pool.request("POST", url + path, body=body, headers=headers)
            assert response.data == body[::-1]
            expected.append((path, body, body[::-1], path != "/missing"))
        # Headers of a body that does not come.
        assert pool.request("HEAD", url + "/head").headers["Content-Length"] == "100"
        assert pool.request("POST", url + "/last", body=b"xy").data == b"yx"
        expected += [("/head", b"", b"", True), ("/last", b"xy", b"yx", True)]
        wait_until(lambda: len(recorder.exchanges) == len(expected))
    server.shutdown()
    told = recorder.exchanges
    assert [e.packed for e in told] == [e.path == "/packed" for e in told]
    answers = [gzip.decompress(e.answer) if e.packed else e.answer for e in told]
    assert [(e.path, e.request, a, e.succeeded) for e, a in zip(told, answers, strict=True)] == expected
    assert recorder.notes == []


HEAD = b"POST /%s HTTP/1.1\r\nContent-Length: %d\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


@pytest.mark.parametrize("cut", [1, 7, 10_000])
def test_answers_that_come_at_once_belong_to_their_requests(cut: int):
    told: list[Exchange] = []
    room = Room(1000)
    tap = RestTap(told.append, room=room)
    of_client = b"".join(HEAD % (name, 3) + name * 3 for name in (b"a", b"b", b"c"))
    of_server = b"".join(OK % 2 + name * 2 for name in (b"x", b"y", b"z"))
    for content, is_client in ((of_client, True), (of_server, False)):
        for start in range(0, len(content), cut):
            tap.feed(content[start : start + cut], is_client)
    assert [(e.path, e.request, e.answer) for e in told] == [
        ("/a", b"aaa", b"xx"),
        ("/b", b"bbb", b"yy"),
        ("/c", b"ccc", b"zz"),
    ]
    assert room.left == 1000 and tap.under_way() == []


def test_a_request_that_is_answered_before_it_is_whole_keeps_no_room():
    told: list[Exchange] = []
    room = Room(1000)
    tap = RestTap(told.append, room=room)
    tap.feed(HEAD % (b"large", 600) + bytes(100), True)
    tap.feed(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n", False)
    tap.feed(bytes(500), True)
    tap.close()
    assert [(e.path, e.succeeded) for e in told] == [("", False)] and room.left == 1000


def test_what_a_connection_takes_with_it_has_failed_and_what_is_not_understood_has_not():
    told: list[Exchange] = []
    for end in (RestTap.close, RestTap.let_go):
        tap = RestTap(told.append)
        tap.feed(HEAD % (b"a", 1) + b"x", True)
        end(tap)
    assert [(e.path, e.succeeded, e.request) for e in told] == [("/a", False, b"x")]


@contextmanager
def echo() -> Iterator[int]:
    """A server that sends back what it gets, until the client has no more."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                while content := connection.recv(2**16):
                    connection.sendall(content)

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]


@pytest.mark.parametrize("route", [grpc_route, rest_route])
def test_what_is_not_understood_passes_all_the_same(route: Any):
    sent = random.Random(1).randbytes(5_000_000)
    with echo() as port, relayed(route(0, port)) as ([through], recorder):
        with socket.create_connection(("127.0.0.1", through)) as connection:
            threading.Thread(target=lambda: (connection.sendall(sent), connection.shutdown(socket.SHUT_WR))).start()
            received = b"".join(iter(lambda: connection.recv(2**16), b""))
        wait_until(lambda: bool(recorder.notes))
    assert received == sent
    assert recorder.notes == ["connections not understood"] and recorder.exchanges == []


def test_no_server_is_nobody_there(unused_port: int):
    with (
        relayed(grpc_route(0, unused_port)) as ([port], _),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(CALL)(b"")
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def unused_port() -> int:
    from ports import free_port

    return free_port()


def test_a_tap_raises_for_what_it_does_not_know():
    for tap, content in (
        (GrpcTap(print), b"GET / HTTP/1.1\r\n\r\n" + b" " * 20),
        (RestTap(print), b"x" * 70_000),
        (RestTap(print), b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (RestTap(print), b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n"),
    ):
        with pytest.raises(UnreadableError):
            tap.feed(content, True)


def test_bodies_that_are_not_sampled_or_too_large_are_not_kept(monkeypatch: pytest.MonkeyPatch):
    told: list[Any] = []
    for rate, most in ((0.0, 100), (1.0, 100), (1.0, 3)):
        monkeypatch.setattr("flexunet.live.taps.MOST_BODY", most)
        tap = RestTap(told.append, rate=rate)
        tap.feed(b"POST /a HTTP/1.1\r\nContent-Length: 4\r\n\r\nabcd", True)
        tap.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", False)
    assert [(e.sampled, e.request, e.succeeded) for e in told] == [
        (False, b"", True),
        (True, b"abcd", True),
        (False, b"", True),
    ]


def test_bodies_under_way_have_so_much_room_together():
    told: list[Any] = []
    room = Room(10)
    head = b"POST /a HTTP/1.1\r\nContent-Length: 6\r\n\r\n"
    first, second, third = (RestTap(told.append, room=room) for _ in range(3))
    first.feed(head + b"abcdef", True)
    second.feed(head + b"abcdef", True)
    assert room.left == 4
    third.feed(head + b"ab", True)
    third.let_go()
    assert room.left == 4
    for tap in (first, second):
        tap.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", False)
    assert [(e.sampled, e.request, e.answer) for e in told] == [(True, b"abcdef", b"x"), (False, b"", b"")]
    assert room.left == 10


@pytest.mark.parametrize(
    ("tap", "whole", "part"),
    [(GrpcTap, PREFACE, FRAME[:3]), (GrpcTap, PREFACE + FRAME, FRAME[:-1]), (RestTap, b"", b"GET /a HT")],
    ids=["preface", "frame", "head"],
)
def test_what_has_begun_to_come_is_not_idle(tap: Any, whole: bytes, part: bytes):
    reading = tap(lambda exchange: None)
    assert reading.is_idle
    reading.feed(whole, True)
    assert reading.is_idle
    reading.feed(part, True)
    assert not reading.is_idle and reading.under_way() == []
