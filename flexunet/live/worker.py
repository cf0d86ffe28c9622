"""Looks at exchanges in a process of its own, so that no request waits for it.

    python -m flexunet.live.worker DIR DAYS IMAGE_BYTES CAMERA_HEADER

Exchanges come pickled through its input, from the proxy that started it; it ends where that ends, however it ends.
"""

import contextlib
import pickle
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO, Final

from flexunet.live.exchange import Exchange, Note
from flexunet.live.observe import NotSeenError, seen_in
from flexunet.live.store import HOUR_SECONDS, Kept, Store

_FLUSH_SECONDS: Final = 2.0


def main(arguments: list[str]) -> None:
    """Until the input ends."""
    # Ctrl-C in a terminal reaches both processes: the proxy decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    directory, days, image_bytes, camera_header = arguments
    kept = Kept(Path(directory), float(days), int(image_bytes), camera_header)
    run(sys.stdin.buffer, Store(kept), camera_header)


def run(source: BinaryIO, store: Store, camera_header: str) -> None:
    """Looks at what comes, and writes at least every two seconds what was seen."""
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
                look(told, store, camera_header)
        if time.monotonic() - written > _FLUSH_SECONDS:
            store.flush()
            written = time.monotonic()
        if time.monotonic() - forgotten > HOUR_SECONDS or not forgotten:
            store.forget(time.time())
            forgotten = time.monotonic()
    store.flush()


def look(exchange: Exchange, store: Store, camera_header: str) -> None:
    """Counts an exchange, and takes down the images in it."""
    moment = exchange.received
    store.count("requests", moment)
    if not exchange.succeeded:
        store.count("failed requests", moment)
    elif not exchange.sampled:
        store.count("not sampled", moment)
    else:
        try:
            for encoded, seen in seen_in(exchange, camera_header):
                store.add(encoded, seen)
        except NotSeenError as reason:
            store.count(f"without images: {reason}", moment)


def _receive(source: BinaryIO, waiting: "queue.Queue[Exchange | Note | None]") -> None:
    # A pickle that breaks off is a proxy that was killed.
    with contextlib.suppress(EOFError, pickle.UnpicklingError):
        while True:
            waiting.put(pickle.load(source))  # noqa: S301  from the process that started this one
    waiting.put(None)


if __name__ == "__main__":
    main(sys.argv[1:])
