"""Stands in front of a server and hands every byte on; what went by is told to another process, which may be late.

Bytes are written on before anything looks at them, and looking never waits: exchanges that the other process cannot
keep up with are dropped, and counted. A connection ends when either end closes it, as it would without. Asked to end,
it takes no new ones, ends those with nothing under way, and gives the others some seconds.
"""

import asyncio
import contextlib
import logging
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from flexunet.core.listening import cannot_listen
from flexunet.live.exchange import Exchange, Note, tell
from flexunet.live.metrics import Counted, listen
from flexunet.live.store import Kept
from flexunet.live.taps import GrpcTap, RestTap, Room, Tap

logger = logging.getLogger("flexunet.live")
_CHUNK: Final = 2**18
# Bytes of the bodies of exchanges under way; beyond that they are counted and not looked at.
_MOST_UNDER_WAY: Final = 256 * 2**20
# Bytes of exchanges that wait to be looked at.
_MOST_WAITING: Final = 128 * 2**20
_BARE_BYTES: Final = 1000
_MISSED: Final = "not looked at: too many at once"
# Twice as long each time that it soon ends again: what fails for days must not fill a log.
_RESTART_SECONDS: Final = 10.0
_MOST_DOUBLED: Final = 6
_MOST_RESTART_SECONDS: Final = _RESTART_SECONDS * 2**_MOST_DOUBLED
# When it is asked to end, for requests under way, then for what waits to be looked at, then for a process that is
# killed: together less than what our manifests leave of the grace period.
_DRAIN_SECONDS: Final = 5.0
_DRAIN_LOOK_SECONDS: Final = 0.02
_CLOSE_SECONDS: Final = 7.0
_KILL_SECONDS: Final = 1.0
# A connection takes two. More than Linux gives by itself, and no more than a Mac's kernel allows.
_FILES: Final = 2**15

MakeTap = Callable[[Callable[[Exchange], None], Sequence[str], float, Room], Tap]


@dataclass(frozen=True)
class Route:
    """Where is listened, and where it goes."""

    port: int
    server_port: int
    tap: MakeTap


def grpc_route(port: int, server_port: int) -> Route:
    """Of TF Serving's gRPC."""
    return Route(port, server_port, GrpcTap)


def rest_route(port: int, server_port: int) -> Route:
    """Of TF Serving's REST."""
    return Route(port, server_port, RestTap)


@dataclass(frozen=True)
class Settings:
    """Of a proxy.

    Attributes:
      host: to listen on.
      server_host: of the server.
      routes: ports, one of them of gRPC, by which versions are compared; port 0 takes a free one.
      kept: what is kept of what went by.
      rate: share of the requests whose images are looked at.
      compare: share of these images that a stable version and a canary are asked of again.
      metrics_port: of what Prometheus reads; 0 takes a free one, None: none.
    """

    host: str
    server_host: str
    routes: Sequence[Route]
    kept: Kept
    rate: float = 1.0
    compare: float = 0.0
    metrics_port: int | None = None

    @property
    def server_address(self) -> str:
        """Of the server's gRPC, past the watch, `host:port`."""
        [port] = [route.server_port for route in self.routes if route.tap is GrpcTap]
        return f"{self.server_host}:{port}"


class Witness:
    """The process that looks, and the queue in front of it; `tell` never waits."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self.counted = settings, Counted()
        self._waiting: queue.SimpleQueue[Exchange | Note | None] = queue.SimpleQueue()
        self._lock, self._bytes, self._missed = threading.Lock(), 0, 0
        self._ending, self._soon_ended = threading.Event(), 0
        self._process = self._started()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def tell(self, exchange: Exchange) -> None:
        """Of an exchange that has ended."""
        self.counted.exchange(exchange)
        self._put(exchange)

    def note(self, what: str) -> None:
        """Counts what has just happened."""
        self._put(Note(what, time.time()))

    def _put(self, told: Exchange | Note) -> None:
        with self._lock:
            if isinstance(told, Note):
                self.counted.notes[told.what] += 1
            if self._bytes + _size(told) > _MOST_WAITING:
                self._missed += 1
                self.counted.notes[_MISSED] += 1
                return
            self._put_missed()
            self._bytes += _size(told)
            self._waiting.put(told)

    def _put_missed(self) -> None:
        if self._missed:
            missed = Note(_MISSED, time.time(), self._missed)
            self._bytes, self._missed = self._bytes + _size(missed), 0
            self._waiting.put(missed)

    def close(self) -> None:
        """Lets the process look at what waits, and write it; what hangs is killed after a while."""
        with self._lock:
            self._put_missed()
        until = time.monotonic() + _CLOSE_SECONDS
        self._ending.set()
        self._waiting.put(None)
        self._thread.join(_CLOSE_SECONDS)
        if not self._thread.is_alive():
            self._say_no_more()
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            logger.warning("what looks at images did not end; %d requests were not looked at", self._waiting.qsize())
            self._process.kill()
            # One that waits for a network's disk does not end even so.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_KILL_SECONDS)

    def _say_no_more(self) -> None:
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()

    def _started(self) -> "subprocess.Popen[bytes]":
        kept, settings = self._settings.kept, self._settings
        arguments = [kept.directory.resolve(), kept.days, kept.image_bytes, kept.camera_header, kept.beside]
        arguments += [settings.server_address, settings.compare]
        command = [sys.executable, "-m", "flexunet.live.worker", *map(str, arguments)]
        return subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603

    def _send(self) -> None:
        began = time.monotonic()
        while (told := self._waiting.get()) is not None:
            with self._lock:
                self._bytes -= _size(told)
            try:
                assert self._process.stdin is not None
                tell(self._process.stdin, told)
            except OSError:
                # Killed, perhaps for its memory, or the disk is full. Traffic goes on, and looking after a while.
                if not self._begins_again(time.monotonic() - began):
                    return
                began = time.monotonic()

    def _begins_again(self, lived: float) -> bool:
        """After a while, and as often as it takes: a machine without memory starts no process either. False: at the
        end of all."""
        code = self._process.wait()
        self._say_no_more()
        self._soon_ended = 0 if lived > _MOST_RESTART_SECONDS else self._soon_ended
        while not self._ending.is_set():
            seconds = _RESTART_SECONDS * 2**self._soon_ended
            logger.warning("what looks at images ended with %d; it begins again in %g s", code, seconds)
            self.note("times that looking began again")
            self._soon_ended = min(self._soon_ended + 1, _MOST_DOUBLED)
            if not self._ending.wait(seconds):
                with contextlib.suppress(OSError):
                    self._process = self._started()
                    return True
        return False


def _size(told: Exchange | Note) -> int:
    """Bytes, about; what holds no bodies takes room too."""
    return _BARE_BYTES + (len(told.request) + len(told.answer) if isinstance(told, Exchange) else 0)


@dataclass
class Proxy:
    """Listens until it is closed; `ports` are those of the routes, and last that of the metrics, where there is one."""

    settings: Settings
    witness: Witness
    ports: list[int] = field(default_factory=list)
    room: Room = field(default_factory=lambda: Room(_MOST_UNDER_WAY))
    _relays: "set[_Relay]" = field(default_factory=set)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Raises UserError where nobody can listen."""
        servers = []
        try:
            for route in self.settings.routes:
                servers.append(await self._listen(route))
                self.ports.append(servers[-1].sockets[0].getsockname()[1])
            if self.settings.metrics_port is not None:
                servers.append(await self._listen_for_metrics(self.settings.metrics_port))
                self.ports.append(servers[-1].sockets[0].getsockname()[1])
            yield
        finally:
            for server in servers:
                server.close()

    async def drain(self, seconds: float) -> None:
        """Ends each connection as soon as nothing is under way in it, and after so long whatever is."""
        until = time.monotonic() + seconds
        idle: set[_Relay] = set()
        while time.monotonic() < until:
            # First: what a client has just sent, perhaps in a new connection, is read meanwhile.
            await asyncio.sleep(_DRAIN_LOOK_SECONDS)
            if not self._relays:
                return
            idle, before = {relay for relay in self._relays if relay.is_idle}, idle
            for relay in idle & before:
                relay.end()
        for relay in self._relays:
            relay.end()

    async def _listen(self, route: Route) -> asyncio.Server:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._relay(route, reader, writer)

        host = self.settings.host
        try:
            return await asyncio.start_server(connected, host, route.port, limit=_CHUNK, backlog=1024)
        except OSError as error:
            raise cannot_listen(host, route.port, error) from None

    async def _listen_for_metrics(self, port: int) -> asyncio.Server:
        counted, directory = self.witness.counted, self.settings.kept.directory
        return await listen(self.settings.host, port, lambda: counted.text(directory))

    async def _relay(self, route: Route, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wanted = [self.settings.kept.camera_header.lower()]
        look = _Look(route.tap(self.witness.tell, wanted, self.settings.rate, self.room), self.witness)
        relay = _Relay(look, writer)
        self._relays.add(relay)
        try:
            await relay.run(reader, self.settings.server_host, route.server_port)
        finally:
            relay.end()
            self._relays.discard(relay)


class _Relay:
    """A connection of a client with the server, from its first moment on; `client` leads to the one."""

    def __init__(self, look: "_Look", client: asyncio.StreamWriter) -> None:
        self._look, self._writers, self._is_through = look, [client], False

    @property
    def is_idle(self) -> bool:
        """Whether no request waits for its answer, as far as that is understood."""
        return self._is_through and self._look.is_idle

    async def run(self, of_client: asyncio.StreamReader, server_host: str, server_port: int) -> None:
        """Connects with the server; until both ends have said all, or one broke off."""
        [client] = self._writers
        try:
            of_server, server = await asyncio.open_connection(server_host, server_port, limit=_CHUNK)
        except OSError:
            # The server is not there: so the client finds nobody here either.
            client.transport.abort()
            return
        self._writers.append(server)
        self._is_through = True
        for end in self._writers:
            # Of a peer that vanished without a word nothing would ever come; the client may be gone already.
            with contextlib.suppress(OSError):
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        ways = [_pump(of_client, server, self._look, True), _pump(of_server, client, self._look, False)]
        tasks = [asyncio.ensure_future(way) for way in ways]
        try:
            await asyncio.gather(*tasks)
        except OSError:
            # So does the other.
            for task in tasks:
                task.cancel()

    def end(self) -> None:
        """Closes both, when what was written is sent."""
        self._look.close()
        for writer in self._writers:
            writer.close()


class _Look:
    """A tap that is let go at the first bytes that it does not understand."""

    def __init__(self, tap: Tap, witness: Witness) -> None:
        self._tap: Tap | None = tap
        self._witness = witness

    @property
    def is_idle(self) -> bool:
        return self._tap is not None and self._tap.is_idle

    def feed(self, content: bytes, of_client: bool) -> None:
        if self._tap is not None:
            try:
                self._tap.feed(content, of_client)
            # Whatever a tap stumbles over must not hold up a byte.
            except Exception:  # noqa: BLE001
                self._tap.let_go()
                self._tap = None
                self._witness.note("connections not understood")

    def close(self) -> None:
        """The connection has ended."""
        if self._tap is not None:
            self._tap.close()
            self._tap = None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, look: _Look, of_client: bool) -> None:
    while content := await reader.read(_CHUNK):
        writer.write(content)
        look.feed(content, of_client)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def run(settings: Settings, on_ready: Callable[[list[int]], None]) -> signal.Signals:
    """Until SIGINT or SIGTERM, and says which; `on_ready` gets the ports. Raises UserError where nobody can listen."""
    _allow_files()
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[signal.Signals] = loop.create_future()
    witness = Witness(settings)
    try:
        proxy = Proxy(settings, witness)
        async with proxy.listening():
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, lambda came=number: stopped.done() or stopped.set_result(came))
            on_ready(proxy.ports)
            signal_number = await stopped
        await proxy.drain(_DRAIN_SECONDS)
        return signal_number
    finally:
        await asyncio.to_thread(witness.close)


def _allow_files() -> None:
    """As many as the proxy may need, or as this user may open; none fewer than before."""
    # Windows has no such limits, and some systems raise none.
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _FILES if most == resource.RLIM_INFINITY else min(most, _FILES)
        if now != resource.RLIM_INFINITY and now < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
