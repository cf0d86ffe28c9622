"""A watch's proxy in this process, whose witness only remembers."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
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
def relayed(*routes: Route, camera_header: str = "", host: str = "127.0.0.1") -> Iterator[tuple[list[int], Recorder]]:
    """The ports that lead to the routes' servers, and what goes by."""
    recorder: Any = Recorder()
    proxy = Proxy(Settings(host, "127.0.0.1", routes, Kept(Path(), 1, 0, camera_header)), recorder)
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run() -> None:
        ended = asyncio.Event()
        async with proxy.listening():
            ready.set_result((asyncio.get_running_loop(), ended))
            await ended.wait()

    # In a thread of its own: a browser's tests leave a loop running in this one.
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(asyncio.run, run())
        wait([running, ready], return_when=FIRST_COMPLETED)
        if running.done():
            running.result()
        loop, ended = ready.result()
        try:
            yield proxy.ports, recorder
        finally:
            loop.call_soon_threadsafe(ended.set)
            running.result()
