"""Reads along what goes through a connection: bytes in, exchanges out. Nothing here can change or hold up a byte.

gRPC is HTTP/2 (RFC 9113) with compressed headers (RFC 7541, read by `hpack`), REST is HTTP/1.1 (RFC 9112). A connection
that cannot be understood is let go: `UnreadableError`.
"""

import random
import struct
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Final

from hpack import Decoder, HPACKError

from flexunet.live.exchange import MOST_BODY, Exchange, Interface

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME: Final = struct.Struct(">BHBBL")
_DATA, _HEADERS, _RESET, _CONTINUATION = 0x0, 0x1, 0x3, 0x9
_END_STREAM, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x4, 0x8, 0x20
# What a peer may allow its counterpart to remember; whether it did is not looked at.
_MOST_TABLE: Final = 2**20
_MOST_HEAD: Final = 2**16
_HEAD_END: Final = b"\r\n\r\n"
# Of HTTP/1.1 as of HTTP/2 among the headers of a request: a colon begins no name.
_METHOD, _PATH = ":method", ":path"


class UnreadableError(Exception):
    """These bytes are not understood: the rest of the connection is not looked at."""


class Room:
    """Bytes that the bodies of all exchanges under way may take, in all connections."""

    def __init__(self, most: int) -> None:
        self.left = most

    def take(self, size: int) -> bool:
        """Whether there was room."""
        if size > self.left:
            return False
        self.left -= size
        return True


@dataclass
class _Side:
    """What one end has sent of an exchange."""

    headers: dict[str, str] = field(default_factory=dict)
    parts: list[bytes] = field(default_factory=list)
    size: int = 0


@dataclass
class _Open:
    """An exchange under way."""

    sampled: bool
    room: Room
    kept: int = 0
    received: float = field(default_factory=time.time)
    started: float = field(default_factory=time.perf_counter)
    client: _Side = field(default_factory=_Side)
    server: _Side = field(default_factory=_Side)

    def side(self, of_client: bool) -> _Side:
        return self.client if of_client else self.server

    @property
    def path(self) -> str:
        return self.client.headers.get(_PATH, "")

    def add(self, content: bytes, of_client: bool) -> None:
        """More of a body; the bodies of an exchange that are too much are not kept."""
        side = self.side(of_client)
        side.size += len(content)
        if self.sampled and side.size <= MOST_BODY and self.room.take(len(content)):
            self.kept += len(content)
            side.parts.append(content)
        else:
            self.release()

    def release(self) -> None:
        """Gives back the room of its bodies; what still comes, of a request that was answered early, is not kept."""
        self.room.left += self.kept
        self.kept, self.sampled = 0, False
        self.client.parts, self.server.parts = [], []


class Tap(ABC):
    """One connection, of a client with a server.

    Args:
      emit: gets each exchange when it has ended.
      wanted: names of request headers to keep, in lower case.
      rate: share of the exchanges whose bodies are kept.
      room: for those under way, of all connections.
    """

    interface: Interface

    def __init__(
        self,
        emit: Callable[[Exchange], None],
        wanted: Collection[str] = (),
        rate: float = 1.0,
        room: Room | None = None,
    ) -> None:
        self._emit, self._wanted, self._rate = emit, frozenset(wanted), rate
        self._room = room or Room(MOST_BODY)
        self._begin()

    @abstractmethod
    def _begin(self) -> None:
        """Of a connection."""

    @abstractmethod
    def under_way(self) -> list[_Open]:
        """The exchanges that have begun and not ended."""

    @property
    @abstractmethod
    def is_idle(self) -> bool:
        """Whether nothing is under way, and nothing has come that would begin with its next bytes."""

    def close(self) -> None:
        """The connection has ended: what was under way has no answer."""
        for found in self.under_way():
            self._ended(found, succeeded=False)

    def let_go(self) -> None:
        """Nothing more is read: gives back the room of what was under way, of which nobody knows how it ends."""
        for found in self.under_way():
            found.release()

    @abstractmethod
    def feed(self, content: bytes, of_client: bool) -> None:
        """Bytes that one end sent, in their order.

        Raises:
          UnreadableError: they are not understood.
        """

    def _opened(self) -> _Open:
        return _Open(random.random() < self._rate, self._room)  # noqa: S311  no secret

    def _ended(self, found: _Open, succeeded: bool) -> None:
        self._emit(
            Exchange(
                interface=self.interface,
                path=found.path,
                headers={name: value for name, value in found.client.headers.items() if name in self._wanted},
                request=b"".join(found.client.parts),
                answer=b"".join(found.server.parts),
                succeeded=succeeded,
                received=found.received,
                seconds=time.perf_counter() - found.started,
                sampled=found.sampled,
                packed=found.server.headers.get("content-encoding", "") == "gzip",
            )
        )
        found.release()


class _Http2Side:
    """One direction of a connection: cuts it into frames, and headers out of these."""

    def __init__(self, preface: bytes) -> None:
        self._buffer, self._preface = bytearray(), preface
        self._decoder = Decoder()
        self._decoder.max_allowed_table_size = _MOST_TABLE
        self._block: tuple[int, bool, bytes] | None = None

    @property
    def is_between(self) -> bool:
        """Whether what has come is whole."""
        return not self._buffer and self._block is None

    def frames(self, content: bytes) -> list[tuple[int, int, int, bytes]]:
        """Kind, flags, stream and content of the frames that are whole by now."""
        self._buffer += content
        if self._preface:
            if len(self._buffer) < len(self._preface):
                return []
            if not self._buffer.startswith(self._preface):
                raise UnreadableError("no HTTP/2")
            del self._buffer[: len(self._preface)]
            self._preface = b""
        found, at = [], 0
        while at + _FRAME.size <= len(self._buffer):
            high, low, kind, flags, stream = _FRAME.unpack_from(self._buffer, at)
            end = at + _FRAME.size + (high << 16 | low)
            if end > len(self._buffer):
                break
            found.append((kind, flags, stream & 0x7FFFFFFF, bytes(self._buffer[at + _FRAME.size : end])))
            at = end
        del self._buffer[:at]
        return found

    def headers(self, kind: int, flags: int, stream: int, content: bytes) -> tuple[bool, dict[str, str]] | None:
        """Whether the stream ends with them, and headers; None while more of them are to come."""
        if kind == _HEADERS:
            content = _unpadded(content, flags)[5 if flags & _PRIORITY else 0 :]
            self._block = stream, bool(flags & _END_STREAM), content
        elif self._block is None or self._block[0] != stream:
            raise UnreadableError("a continuation of nothing")
        else:
            self._block = *self._block[:2], self._block[2] + content
        if len(self._block[2]) > _MOST_HEAD:
            raise UnreadableError("headers without end")
        if not flags & _END_HEADERS:
            return None
        (_, ends, block), self._block = self._block, None
        try:
            pairs = self._decoder.decode(block, raw=True)
        except HPACKError as error:
            raise UnreadableError(str(error)) from None
        return ends, {name.decode("latin-1"): value.decode("latin-1") for name, value, *_ in pairs}


def _unpadded(content: bytes, flags: int) -> bytes:
    return content[1 : len(content) - content[0]] if flags & _PADDED and content else content


class GrpcTap(Tap):
    """gRPC over HTTP/2; an exchange is a stream."""

    interface = "grpc"

    def _begin(self) -> None:
        self._sides = {True: _Http2Side(_PREFACE), False: _Http2Side(b"")}
        self._streams: dict[int, _Open] = {}

    def under_way(self) -> list[_Open]:
        return [*self._streams.values()]

    @property
    def is_idle(self) -> bool:
        return not self._streams and all(side.is_between for side in self._sides.values())

    def feed(self, content: bytes, of_client: bool) -> None:
        for kind, flags, stream, payload in self._sides[of_client].frames(content):
            if kind in (_HEADERS, _CONTINUATION):
                self._on_headers(kind, flags, stream, payload, of_client)
            elif kind == _DATA and stream in self._streams:
                found = self._streams[stream]
                found.add(_unpadded(payload, flags), of_client)
                self._on_end(stream, bool(flags & _END_STREAM), of_client)
            elif kind == _RESET and stream in self._streams:
                self._finish(stream)

    def _on_headers(self, kind: int, flags: int, stream: int, payload: bytes, of_client: bool) -> None:
        # Even of an unknown stream: the table of known headers goes on with them.
        decoded = self._sides[of_client].headers(kind, flags, stream, payload)
        if decoded is None:
            return
        ends, headers = decoded
        if of_client and stream not in self._streams:
            self._streams[stream] = self._opened()
        if stream in self._streams:
            self._streams[stream].side(of_client).headers.update(headers)
            self._on_end(stream, ends, of_client)

    def _on_end(self, stream: int, ends: bool, of_client: bool) -> None:
        # A server that refuses does not wait for the end of the request.
        if ends and not of_client:
            self._finish(stream)

    def _finish(self, stream: int) -> None:
        found = self._streams.pop(stream)
        self._ended(found, found.server.headers.get("grpc-status") == "0")


class _Http1Side:
    """One direction of a connection: cuts it into heads and bodies."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left = 0
        self._in_body = False

    @property
    def is_between(self) -> bool:
        """Whether what has come is whole."""
        return not self._buffer and not self._in_body

    def messages(self, content: bytes, to: Callable[[], _Open | None], of_client: bool) -> Iterator[tuple[str, _Open]]:
        """First line and exchange of each message that is whole by now; `to` gives the one that a head belongs to, and
        is asked when all messages before it have been taken."""
        self._buffer += content
        while self._is_begun(to, of_client) and self._is_whole(of_client):
            yield self._line, self._exchange

    def _is_begun(self, to: Callable[[], _Open | None], of_client: bool) -> bool:
        """Whether the head of a message is known."""
        while not self._in_body:
            end = self._buffer.find(_HEAD_END)
            if end < 0:
                if len(self._buffer) > _MOST_HEAD:
                    raise UnreadableError("headers without end")
                return False
            self._line, headers = _head(bytes(self._buffer[:end]))
            del self._buffer[: end + len(_HEAD_END)]
            if of_client or self._line.split(" ")[1:2] != ["100"]:
                self._begin_body(to(), headers, of_client)
        return True

    def _begin_body(self, exchange: _Open | None, headers: dict[str, str], of_client: bool) -> None:
        if exchange is None:
            raise UnreadableError("an answer to nothing")
        self._exchange, self._in_body = exchange, True
        exchange.side(of_client).headers = headers
        has_body = of_client or exchange.client.headers.get(_METHOD) != "HEAD"
        self._left = _length(headers, of_client) if has_body else 0

    def _is_whole(self, of_client: bool) -> bool:
        taken = bytes(self._buffer[: self._left])
        del self._buffer[: len(taken)]
        self._left -= len(taken)
        self._exchange.add(taken, of_client)
        self._in_body = self._left > 0
        return not self._in_body


def _head(content: bytes) -> tuple[str, dict[str, str]]:
    first, *lines = content.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return first, headers


def _length(headers: dict[str, str], of_client: bool) -> int:
    if "transfer-encoding" in headers or not (of_client or "content-length" in headers):
        raise UnreadableError("a body without a length")
    length = headers.get("content-length", "0")
    if not length.isdecimal():
        raise UnreadableError("no number of bytes")
    return int(length)


class RestTap(Tap):
    """HTTP/1.1; answers come in the order of the requests."""

    interface = "rest"

    def _begin(self) -> None:
        self._sides = {True: _Http1Side(), False: _Http1Side()}
        self._waiting: deque[_Open] = deque()

    def under_way(self) -> list[_Open]:
        return [*self._waiting]

    @property
    def is_idle(self) -> bool:
        return not self._waiting and all(side.is_between for side in self._sides.values())

    def feed(self, content: bytes, of_client: bool) -> None:
        to = self._open_one if of_client else self._first
        for line, found in self._sides[of_client].messages(content, to, of_client):
            first, second, *_ = f"{line} ".split(" ")
            if of_client:
                found.client.headers |= {_METHOD: first, _PATH: second}
            else:
                self._waiting.popleft()
                self._ended(found, second == "200")

    def _open_one(self) -> _Open:
        self._waiting.append(self._opened())
        return self._waiting[-1]

    def _first(self) -> _Open | None:
        return self._waiting[0] if self._waiting else None
