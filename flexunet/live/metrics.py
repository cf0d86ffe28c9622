"""What Prometheus reads of a watch, `http://HOST:PORT/metrics`: what went by, and what the last `live drift` found."""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from flexunet.core.listening import cannot_listen
from flexunet.live.exchange import Exchange
from flexunet.live.store import DRIFT_METRICS

_SECONDS: Final = 5.0
_KIND: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass
class Counted:
    """Since the watch began; written by one thread and read by another."""

    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def exchange(self, exchange: Exchange) -> None:
        """One that has ended."""
        self.requests[exchange.interface, "answered" if exchange.succeeded else "failed"] += 1

    def text(self, directory: Path) -> str:
        """In Prometheus' text format; what `live drift` left in `directory` behind it."""
        drift = directory / DRIFT_METRICS
        found = drift.read_text(encoding="utf-8", errors="replace") if drift.is_file() else ""
        return "\n".join(self._lines()) + "\n" + found

    def _lines(self) -> Iterator[str]:
        yield "# HELP flexunet_watch_requests_total Requests that went by, by interface and whether they were answered."
        yield "# TYPE flexunet_watch_requests_total counter"
        for (interface, outcome), number in sorted(self.requests.items()):
            yield f'flexunet_watch_requests_total{{interface="{interface}",outcome="{outcome}"}} {number}'
        yield "# HELP flexunet_watch_notes_total What was not looked at, and other things worth knowing."
        yield "# TYPE flexunet_watch_notes_total counter"
        for what, number in sorted(self.notes.items()):
            yield f'flexunet_watch_notes_total{{what="{what}"}} {number}'


async def listen(host: str, port: int, text: Callable[[], str]) -> asyncio.Server:
    """Answers `GET /metrics`.

    Raises:
      UserError: nobody can listen there.
    """
    reading: Future[str] | None = None

    async def read() -> str:
        nonlocal reading
        # All who ask meanwhile wait for the same: of a disk that hangs one thread is enough.
        if reading is None or reading.done():
            reading = _apart(text)
        return await asyncio.wrap_future(reading)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whoever says nothing, or too much, is let go.
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _SECONDS)
            is_asked = head.startswith((b"GET /metrics ", b"GET /metrics?"))
            body = await asyncio.wait_for(read(), _SECONDS) if is_asked else "expected GET /metrics\n"
            status, content = "200 OK" if is_asked else "404 Not Found", body.encode()
            head = f"HTTP/1.1 {status}\r\nContent-Type: {_KIND}\r\nContent-Length: {len(content)}\r\n"
            writer.write(f"{head}Connection: close\r\n\r\n".encode() + content)
            await writer.drain()
        writer.close()

    try:
        return await asyncio.start_server(answer, host, port)
    except OSError as error:
        raise cannot_listen(host, port, error) from None


def _apart(text: Callable[[], str]) -> "Future[str]":
    """`text()` in a thread of its own: the file may lie on a network's disk that hangs. Requests go by in the loop's
    thread, and a pool's threads hold up the end of the process."""
    answer: Future[str] = Future()
    # Who no longer waits must not take it from the others.
    answer.set_running_or_notify_cancel()

    def run() -> None:
        try:
            answer.set_result(text())
        # It is raised where it is waited for.
        except Exception as error:  # noqa: BLE001
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return answer
