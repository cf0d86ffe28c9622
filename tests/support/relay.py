"""A watch's proxy in this process, whose witness only remembers."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flexunet.live.exchange import Exchange
from flexunet.live.proxy import Proxy, Route, Settings
from flexunet.live.store import Kept


class Recorder:
    """What was told of."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.notes: list[str] = []

    def tell(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)

    def note(self, what: str) -> None:
        self.notes.append(what)


@contextmanager
def relayed(*routes: Route, camera_header: str = "") -> Iterator[tuple[list[int], Recorder]]:
    """The ports that lead to the routes' servers, and what goes by."""
    recorder: Any = Recorder()
    proxy = Proxy(Settings("127.0.0.1", "127.0.0.1", routes, Kept(Path(), 1, 0, camera_header)), recorder)
    ready = threading.Event()
    ends: list[Any] = []

    async def run() -> None:
        ended = asyncio.Event()
        async with proxy.listening():
            ends.append((asyncio.get_running_loop(), ended))
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    ready.wait()
    try:
        yield proxy.ports, recorder
    finally:
        [(loop, ended)] = ends
        loop.call_soon_threadsafe(ended.set)
        thread.join()
