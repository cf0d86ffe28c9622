"""Results in order, from threads and processes; no process outlives the one that started it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from waiting import wait_until

from flexunet.dataset import parallel
from flexunet.dataset.pairs import Pair
from flexunet.dataset.parallel import mapped, mapped_by_processes, threads_for


def test_small_images_get_no_threads_and_large_ones_get_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    for size, threads in ((5_000, 1), (1_000_000, 3)):
        path = tmp_path / str(size)
        path.write_bytes(bytes(size))
        assert threads_for([Pair("a", path, path, None)] * 200) == threads
    assert threads_for([]) == 1


@pytest.mark.parametrize("threads", [1, 4])
def test_results_come_in_order_and_few_are_ahead(threads: int):
    started: list[int] = []

    def work(item: int) -> int:
        started.append(item)
        time.sleep(0.001 * (item % 3))
        return item

    results = mapped(work, range(100), threads)
    assert [next(results), next(results)] == [0, 1]
    assert len(started) <= 2 * threads + 3
    assert list(results) == list(range(2, 100))


def test_processes_give_results_in_order_and_errors_as_they_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parallel, "_WORTH_A_PROCESS", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert list(mapped_by_processes(str, range(100))) == [str(i) for i in range(100)]
    with pytest.raises(ValueError, match=r"invalid literal.*'x'"):
        list(mapped_by_processes(int, ["1", "x", "2"]))


SCRIPT = """
import os, time
from flexunet.dataset import parallel

def worker(item):
    time.sleep(0.05)
    return os.getpid()

if __name__ == "__main__":
    parallel._WORTH_A_PROCESS = 1
    parallel.os.cpu_count = lambda: 2
    results = parallel.mapped_by_processes(worker, range(10_000))
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
