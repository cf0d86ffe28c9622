"""Reads many images at once, where that helps."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Final, TypeVar

from flexunet.dataset.pairs import Pair

Item = TypeVar("Item")
Result = TypeVar("Result")

# Decoding a small image is so short that threads only fight for the interpreter's lock: on two cores two threads took
# 1.7 times as long as none for images of 64x64 (5 KB), as long for 200x200 (20 KB), half as long for 1024x1024 (1 MB).
_WORTH_A_THREAD: Final = 100_000
_SAMPLE: Final = 64
# A process is there after a second, in which one core checks about this many small images.
_WORTH_A_PROCESS: Final = 1000
_CHUNK: Final = 32
_AHEAD: Final = 3


def threads_for(pairs: Sequence[Pair]) -> int:
    """How many threads read these best, by the size of some of their images; 1 is none beside the caller's."""
    sizes = [pair.image.stat().st_size for pair in pairs[:: max(1, len(pairs) // _SAMPLE)] if pair.image.is_file()]
    return (os.cpu_count() or 1) if sizes and sum(sizes) / len(sizes) > _WORTH_A_THREAD else 1


def mapped(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Results in order; at most two items ahead for each thread, so that memory does not grow with their number."""
    if threads == 1:
        yield from map(function, items)
        return
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def mapped_by_processes(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Results in order, where there are many items from this process and one more for each other core.

    `function` must be picklable. This process works too, so that nobody waits while the others start.
    """
    others = (os.cpu_count() or 1) - 1
    if others == 0 or len(items) < _WORTH_A_PROCESS:
        yield from map(function, items)
        return
    # Not fork, which copies the locks of other threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(others, mp_context=context, initializer=_follow_parent)
    pending: deque[Future[list[Result]]] = deque()
    try:
        for start in range(0, len(items), _CHUNK):
            chunk = items[start : start + _CHUNK]
            if sum(not future.done() for future in pending) < _AHEAD * others:
                pending.append(pool.submit(_each, function, chunk))
            else:
                pending.append(Future())
                pending[-1].set_result(_each(function, chunk))
            while pending and pending[0].done():
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _each(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]


def _follow_parent() -> None:
    """Ctrl-C is the parent's to handle; if the parent is killed, a worker would wait for it for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
