"""Looks at exchanges in a process of its own, so that no request waits for it.

    python -m flexunet.live.worker DIR DAYS IMAGE_BYTES CAMERA_HEADER URL SHARE

Exchanges come through its input, from the proxy that started it; it ends where that ends, however it ends. Of a SHARE
of the images it asks the server at URL again, both the stable version and the canary.
"""

import contextlib
import queue
import random
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from flexunet.live.exchange import Exchange, Note, read_told
from flexunet.live.observe import NotSeenError, Seen, seen_in
from flexunet.live.pairs import Comparer
from flexunet.live.store import HOUR_SECONDS, Kept, Store

_FLUSH_SECONDS: Final = 2.0


def main(arguments: list[str]) -> None:
    """Until the input ends."""
    # Ctrl-C in a terminal reaches both processes: the proxy decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    directory, days, image_bytes, camera_header, url, share = arguments
    kept = Kept(Path(directory), float(days), int(image_bytes), camera_header)
    run(sys.stdin.buffer, Looking(Store(kept), camera_header, Comparer(url), float(share)))


@dataclass(frozen=True)
class Looking:
    """What is done with an exchange.

    Attributes:
      store: gets what was seen.
      camera_header: whose values tell cameras apart.
      comparer: asks two versions.
      share: of the images that they are asked of.
    """

    store: Store
    camera_header: str
    comparer: Comparer
    share: float

    def look(self, exchange: Exchange) -> None:
        """Counts an exchange, and takes down the images in it."""
        moment, store = exchange.received, self.store
        store.count("requests", moment)
        if not exchange.succeeded:
            store.count("failed requests", moment)
        elif not exchange.sampled:
            store.count("not sampled", moment)
        else:
            try:
                for encoded, seen in seen_in(exchange, self.camera_header):
                    store.add(encoded, seen)
                    self._compare(encoded, seen)
            except NotSeenError as reason:
                store.count(f"without images: {reason}", moment)

    def _compare(self, encoded: bytes, seen: Seen) -> None:
        if random.random() < self.share:  # noqa: S311  no secret
            pair = self.comparer.compare(encoded, seen.time)
            if pair:
                self.store.add_pair(pair)


def run(source: BinaryIO, looking: Looking) -> None:
    """Looks at what comes, and writes at least every two seconds what was seen."""
    store = looking.store
    waiting: queue.Queue[Exchange | Note | None] = queue.Queue(maxsize=1)
    threading.Thread(target=_receive, args=(source, waiting), daemon=True).start()
    written, forgotten = time.monotonic(), 0.0
    while True:
        with contextlib.suppress(queue.Empty):
            told = waiting.get(timeout=_FLUSH_SECONDS)
            if told is None:
                break
            if isinstance(told, Note):
                store.count(told.what, told.moment, told.number)
            else:
                looking.look(told)
        if time.monotonic() - written > _FLUSH_SECONDS:
            store.flush()
            written = time.monotonic()
        if time.monotonic() - forgotten > HOUR_SECONDS or not forgotten:
            store.forget(time.time())
            forgotten = time.monotonic()
    store.flush()


def _receive(source: BinaryIO, waiting: "queue.Queue[Exchange | Note | None]") -> None:
    for told in read_told(source):
        waiting.put(told)
    waiting.put(None)


if __name__ == "__main__":
    main(sys.argv[1:])
