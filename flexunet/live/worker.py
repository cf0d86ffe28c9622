"""Looks at exchanges in a process of its own, so that no request waits for it.

    python -m flexunet.live.worker DIR DAYS IMAGE_BYTES CAMERA_HEADER BESIDE ADDRESS SHARE

Exchanges come through its input, from the proxy that started it; it ends where that ends, however it ends. Of a SHARE
of the images it asks the server's gRPC at ADDRESS again, both the stable version and the canary.
"""

import contextlib
import queue
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from flexunet.core.errors import last_line
from flexunet.core.lock import locked
from flexunet.live.exchange import Exchange, Note, read_told
from flexunet.live.observe import NotSeenError, Seen, seen_in
from flexunet.live.pairs import UNANSWERED, Comparer, NoAnswerError, Pair
from flexunet.live.store import HOUR_SECONDS, Kept, Store, hours_of

_FLUSH_SECONDS: Final = 2.0
_MOST_TO_COMPARE: Final = 4
_LONGEST_END: Final = 60.0


def main(arguments: list[str]) -> None:
    """Until the input ends."""
    # Ctrl-C in a terminal reaches both processes, and so does SIGTERM from systemd: the proxy decides.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    directory, days, image_bytes, camera_header, beside, address, share = arguments
    kept = Kept(Path(directory), float(days), int(image_bytes), camera_header, beside == str(True))
    # One whose proxy was killed may still be writing what it saw.
    with locked(hours_of(kept.directory), _LONGEST_END):
        run(sys.stdin.buffer, Looking(Store(kept), camera_header, Comparing(Comparer(address)), float(share)))


class Comparing:
    """Asks two versions in a thread of its own: one that hangs keeps nobody from looking at the other images."""

    def __init__(self, comparer: Comparer) -> None:
        self._comparer = comparer
        self._asked: queue.Queue[tuple[bytes, float]] = queue.Queue(_MOST_TO_COMPARE)
        self._told: queue.SimpleQueue[Pair | Note] = queue.SimpleQueue()
        threading.Thread(target=self._ask, daemon=True).start()

    def ask(self, encoded: bytes, moment: float) -> None:
        """Later; an image that comes while too many wait is not compared, and told to be so."""
        try:
            self._asked.put_nowait((encoded, moment))
        except queue.Full:
            self._told.put(Note("not compared: too many at once", moment))

    def told(self) -> Iterator[Pair | Note]:
        """What ended since the last call."""
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._told.get_nowait()

    def _ask(self) -> None:
        while True:
            encoded, moment = self._asked.get()
            try:
                pair = self._comparer.compare(encoded, moment)
            except NoAnswerError:
                self._told.put(Note(UNANSWERED, moment))
            else:
                if pair:
                    self._told.put(pair)


@dataclass(frozen=True)
class Looking:
    """What is done with an exchange.

    Attributes:
      store: gets what was seen.
      camera_header: whose values tell cameras apart.
      comparing: asks two versions.
      share: of the images that they are asked of.
    """

    store: Store
    camera_header: str
    comparing: Comparing
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
            self.comparing.ask(encoded, seen.time)

    def take_down(self) -> None:
        """What was compared meanwhile."""
        for told in self.comparing.told():
            if isinstance(told, Pair):
                self.store.add_pair(told)
            else:
                self.store.count(told.what, told.moment, told.number)


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
        looking.take_down()
        if time.monotonic() - written > _FLUSH_SECONDS:
            store.flush()
            written = time.monotonic()
        if time.monotonic() - forgotten > HOUR_SECONDS or not forgotten:
            store.forget(time.time())
            forgotten = time.monotonic()
    looking.take_down()
    store.flush()


def _receive(source: BinaryIO, waiting: "queue.Queue[Exchange | Note | None]") -> None:
    # However it ends, so that a proxy whose messages nobody reads finds out.
    try:
        for told in read_told(source):
            waiting.put(told)
    except ValueError as error:
        print(f"error: a message of the proxy cannot be read: {last_line(error)}", file=sys.stderr)
    finally:
        waiting.put(None)


if __name__ == "__main__":
    main(sys.argv[1:])
