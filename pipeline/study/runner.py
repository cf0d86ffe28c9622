"""Runs the trainings of a study that are missing, as many at once as the machine has room for."""

import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Final

from flexunet.core.errors import NodeFailed, UserError
from flexunet.core.files import replace_text
from flexunet.core.install import LIBRARY
from flexunet.core.machine import usable_cores
from flexunet.core.progress import Step, tell
from pipeline.study.training import Spec

logger = logging.getLogger("flexunet.study")
TASK: Final = "trainings"
LOG: Final = "training.log"


@dataclass(frozen=True)
class Training:
    """A training to be, in a folder of its own."""

    directory: Path
    spec: Spec

    @property
    def totals(self) -> Path:
        """What it was measured to be, once it is finished."""
        return self.directory / self.spec.totals


def run_missing(trainings: Sequence[Training], cores: int | None = None) -> None:
    """Runs what has no totals yet; the same call goes on where it was stopped.

    Args:
      trainings: what is wanted.
      cores: of each; the machine trains as many at once as that allows. None: all of them, one training at a time,
        which a machine with a GPU needs.

    Trainings of one folder, whose models are the same and are measured in other ways, follow each other.

    Raises:
      UserError: more cores than there are.
      NodeFailed: a training failed; the others that had begun are stopped.
    """
    available = usable_cores()
    each = cores or len(available)
    if each > len(available):
        raise UserError(f"--cores {each}: expected at most the {len(available)} that this process may use")
    # The same one may be wanted twice.
    missing = list({training.totals: training for training in trainings if not training.totals.is_file()}.values())
    slots: Queue[list[int]] = Queue()
    for start in range(0, len(available) - each + 1, each):
        slots.put(available[start : start + each])
    total = len({training.totals for training in trainings})
    logger.info("%d of %d trainings to do, %d at once", len(missing), total, slots.qsize())
    folders: dict[Path, list[Training]] = {}
    for training in missing:
        folders.setdefault(training.directory, []).append(training)
    _Pool(slots, total - len(missing), total).run([*folders.values()])


class _Pool:
    """Processes, one for each slot of cores; what stops one stops all."""

    def __init__(self, slots: "Queue[list[int]]", done: int, total: int) -> None:
        self._slots, self._done, self._total = slots, done, total
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, folders: Sequence[Sequence[Training]]) -> None:
        pool = ThreadPoolExecutor(self._slots.qsize())
        tell(Step(TASK, self._done, self._total))
        try:
            for finished in as_completed([pool.submit(self._one_folder, trainings) for trainings in folders]):
                finished.result()
        finally:
            self._stop()
            pool.shutdown(cancel_futures=True)
            tell(Step(TASK, self._done, self._total, ended=True))

    def _one_folder(self, trainings: Sequence[Training]) -> None:
        cores = self._slots.get()
        try:
            for training in trainings:
                if not self._finished(training, cores):
                    return
                with self._lock:
                    self._done += 1
                    tell(Step(TASK, self._done, self._total, training.spec.name))
                logger.info("%s: done", training.spec.name)
        finally:
            self._slots.put(cores)

    def _finished(self, training: Training, cores: list[int]) -> bool:
        """Whether it ended by itself, and not because others failed; raises where it failed."""
        directory = training.directory
        directory.mkdir(parents=True, exist_ok=True)
        spec = training.spec.model_copy(update={"cores": cores})
        replace_text(directory / "spec.json", spec.model_dump_json(indent=2) + "\n")
        command = [sys.executable, "-m", "pipeline.study.training", str((directory / "spec.json").resolve())]
        with (directory / LOG).open("ab") as log:
            with self._lock:
                if self._stopped:
                    return False
                # Whose end tells it that this process has ended, however it was killed.
                process = subprocess.Popen(  # noqa: S603
                    command, cwd=LIBRARY.parent, stdin=subprocess.PIPE, stdout=log, stderr=log
                )
                self._running.add(process)
            with process:
                code = process.wait()
        with self._lock:
            self._running.discard(process)
            if self._stopped:
                return False
            if code:
                reason = _reason(code, directory / LOG)
                raise NodeFailed(f"{training.spec.name} failed: {reason}\nfull log: {directory / LOG}")
        return True

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()


def _reason(code: int, log: Path) -> str:
    """Of a process that ended with `code`. One that a signal ended has no last word: its log says what went well."""
    if code < 0:
        often = "; most often memory ran out" if -code == signal.SIGKILL else ""
        return f"signal {-code} ({signal.strsignal(-code)}) ended its process{often}"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it left no word")
