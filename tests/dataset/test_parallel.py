"""Results in order, from all processes; no process outlives the one that started it."""

import os
import signal
import subprocess
import sys
import time
from itertools import chain
from multiprocessing import parent_process
from pathlib import Path

import pytest
from waiting import wait_until

from flexunet.core.errors import UserError
from flexunet.dataset.pairs import Pair
from flexunet.dataset.parallel import Workers, chunks_of

CORES = 3


@pytest.fixture
def some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Pair]:
    """Enough for processes on a machine of three cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(CORES)))
    return of_bytes(tmp_path, 5_000, 1000)


def of_bytes(folder: Path, size: int, count: int) -> list[Pair]:
    path = folder / f"{size}.png"
    path.write_bytes(bytes(size))
    return [Pair("a", path, path, None)] * count


def my_process(item: int) -> int:
    time.sleep(0.002)
    return os.getpid()


def fail_at_home(item: int) -> int:
    time.sleep(0.002)
    if parent_process() is None:
        raise KeyboardInterrupt
    return item


def end_the_other(item: int) -> int:
    time.sleep(0.01)
    if parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_few_small_images_get_no_processes_and_few_large_ones_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    for size, count, chunk, processes in ((5_000, 999, 32, 1), (5_000, 1000, 32, 2), (1_000_000, 20, 1, 2)):
        pairs = of_bytes(tmp_path, size, count)
        assert max(map(len, chunks_of(pairs))) == chunk
        assert [*chain(*chunks_of(pairs))] == pairs
        with Workers() as workers:
            workers.start_for(pairs)
            assert len(set(workers.map(my_process, range(1500)))) == processes
    assert list(chunks_of([])) == []


def test_all_processes_work_for_one_map_and_the_next(some: list[Pair]):
    with Workers() as workers:
        workers.start_for(some)
        first = set(workers.map(my_process, range(1500)))
        assert len(first) == CORES
        assert set(workers.map(my_process, range(200))) <= first


def test_results_come_in_order_and_errors_as_they_are(some: list[Pair]):
    with Workers() as workers:
        workers.start_for(some)
        assert list(workers.map(str, range(1000))) == [str(i) for i in range(1000)]
        with pytest.raises(ValueError, match=r"invalid literal.*'x'"):
            list(workers.map(int, [*"123", "x", *"456"]))


def test_an_interrupt_in_this_process_ends_the_work_of_all(some: list[Pair]):
    with Workers() as workers:
        workers.start_for(some)
        with pytest.raises(KeyboardInterrupt):
            list(workers.map(fail_at_home, range(1000)))
        assert list(workers.map(str, range(10))) == [str(i) for i in range(10)]


def test_a_ctrl_c_while_workers_start_prints_nothing_of_theirs(tmp_path: Path):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as parent:  # fmt: skip
        # One is multiprocessing's own tracker; the other imports for some tenths of a second.
        wait_until(lambda: len(_children(parent.pid)) == 2)
        time.sleep(0.1)
        os.killpg(parent.pid, signal.SIGINT)
        _, told = parent.communicate(timeout=60)
    assert told.count("Traceback") == 1 and told.rstrip().endswith("KeyboardInterrupt")


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_process_that_the_system_killed_is_one_line(some: list[Pair]):
    with Workers() as workers:
        workers.start_for(some)
        with pytest.raises(UserError, match="was killed while it read images"):
            list(workers.map(end_the_other, range(1000)))


SCRIPT = """
import os, signal, time
from pathlib import Path
from flexunet.dataset.pairs import Pair
from flexunet.dataset.parallel import Workers

def worker(item):
    time.sleep(0.05)
    return os.getpid()

if __name__ == "__main__":
    # As at a terminal: what a shell starts in the background ignores Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.sched_getaffinity = lambda _: {0, 1}
    workers = Workers()
    workers.start_for([Pair("a", Path("a"), Path("a"), None)] * 1000)
    results = workers.map(worker, range(10_000))
    print(*{next(results) for _ in range(80)}, flush=True)
    time.sleep(60)
"""


def test_a_killed_ingest_leaves_no_process(tmp_path: Path):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert workers and all(Path(f"/proc/{pid}").exists() for pid in workers)
        parent.kill()
    wait_until(lambda: not any(_runs(pid) for pid in workers))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
