"""Reads many images at once, where that helps."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Final, Self, TypeVar

from flexunet.core.errors import UserError
from flexunet.core.machine import usable_cores
from flexunet.dataset.pairs import Pair

Item = TypeVar("Item")
Result = TypeVar("Result")

# A process is there after a second, in which one core checks about 1000 images of 20 KB, or a fewer larger ones.
_WORTH_BYTES: Final = 20_000_000
# What an image costs at least, however small its file.
_LEAST_BYTES: Final = 20_000
_CHUNK_BYTES: Final = 32 * _LEAST_BYTES
_SAMPLE: Final = 64
# One that is worked on, one that waits: more would be left to the others at the end.
_AHEAD: Final = 2
# Each holds images and the libraries that read them, and this process hands all of them their work.
_MOST: Final = 16


class Workers:
    """Processes of the other cores: started where there is enough for them to do, and kept until the context ends.

    Not threads: decoding a small image is so short that they only fight for the interpreter's lock; two on two cores
    took as long as one for images of 200x200.
    """

    def __init__(self) -> None:
        self._others = min(_MOST, len(usable_cores())) - 1
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def start_for(self, pairs: Sequence[Pair]) -> None:
        """Starts them if reading `pairs` takes longer than that."""
        if self._others and self._pool is None and len(pairs) * _cost(pairs) >= _WORTH_BYTES:
            # Not fork, which copies the locks of other threads.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._others, mp_context=context, initializer=_follow_parent)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Results in order, few of them ahead; `function`, items and results must be picklable.

        This process works too, so that nobody waits while the others start.

        Raises:
          UserError: a process was killed.
        """
        if self._pool is None:
            yield from map(function, items)
            return
        try:
            yield from self._spread(self._pool, function, items)
        except BrokenProcessPool:
            raise UserError(
                "a process of this command was killed while it read images, expected it to live until the end; most "
                "often memory ran out: free some, or let the command use fewer cores (taskset); a script of your own "
                "must call ingest below `if __name__ == '__main__':`"
            ) from None

    def _spread(
        self, pool: ProcessPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                if sum(not future.done() for future in pending) < _AHEAD * self._others:
                    with _uninterrupted():
                        pending.append(pool.submit(function, item))
                else:
                    pending.append(_done(function(item)))
                while pending and pending[0].done():
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            # Nobody works on what is to be cleared after an error.
            wait([future for future in pending if not future.cancel()])


def _done(result: Result) -> Future[Result]:
    future: Future[Result] = Future()
    future.set_result(result)
    return future


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Processes that start here never hear of a Ctrl-C, nor while they import: they inherit what is blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def chunks_of(pairs: Sequence[Pair]) -> Iterator[Sequence[Pair]]:
    """Parts that take about as long as 32 small images: passing on single ones would cost as much as reading them."""
    length = max(1, int(_CHUNK_BYTES / _cost(pairs)))
    return (pairs[start : start + length] for start in range(0, len(pairs), length))


def _cost(pairs: Sequence[Pair]) -> float:
    """Bytes of an image's file, by some of them: what reading takes follows it."""
    sizes = [pair.image.stat().st_size for pair in pairs[:: max(1, len(pairs) // _SAMPLE)] if pair.image.is_file()]
    return max(_LEAST_BYTES, sum(sizes) / max(1, len(sizes)))


def _follow_parent() -> None:
    """If the parent is killed, a worker would wait for it for ever."""
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
