"""Ctrl-C in a run on a terminal: it ends at once, says how to go on, and leaves what test_training.py goes on from."""

import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from processes import ENVIRONMENT
from waiting import epochs_in

from flexunet.core.config.load import load_config
from flexunet.dataset.ingest import ingest

SETTINGS = ("image.height=32", "image.width=32", "model.num_layers=2", "train.epochs=40", "train.batch_size=4")


@pytest.mark.slow
def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path, write_colorful_pairs: Any) -> None:
    write_colorful_pairs(tmp_path / "photos", 60)
    ingest(tmp_path / "photos", tmp_path / "records", load_config("demo", SETTINGS))
    overrides = [word for setting in SETTINGS for word in ("--set", setting)]
    arguments = ["run", "--config", "demo", "--data", "records", "--root", "root", *overrides]

    terminal, shown = run_until_epoch(3, arguments, tmp_path)
    [line] = [line for line in shown.splitlines() if line.startswith("error: ")]
    assert terminal == 130 and "interrupted; finished nodes stay in the cache" in line
    assert shlex.split(line.partition("to go on: ")[2]) == ["flexunet", *arguments]
    assert "Trainer           stopped" in shown
    assert "Evaluator         waiting" in shown and "RecordGen         done" in shown
    assert len(list((tmp_path / "root" / "checkpoints").glob("*.npz"))) == 1


def run_until_epoch(epochs: int, arguments: list[str], folder: Path) -> tuple[int, str]:
    """Sends SIGINT after so many epochs; the exit code and all that a terminal showed."""
    master, slave = pty.openpty()
    # A shell without job control starts what runs in the background, such as these tests, deaf to Ctrl-C.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "flexunet.cli.main", *arguments]
    started = subprocess.Popen(
        command,
        cwd=folder,
        env={**ENVIRONMENT, "TF_CPP_MIN_LOG_LEVEL": "3", "COLUMNS": "300"},
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    shown, sent = bytearray(), 0.0
    while True:
        try:
            shown += os.read(master, 65536)
        # The terminal's other end was closed.
        except OSError:
            break
        histories = folder.glob("root/Trainer/model_run/*/history.csv")
        if not sent and any(epochs_in(path) >= epochs for path in histories):
            started.send_signal(signal.SIGINT)
            sent = time.monotonic()
    os.close(master)
    code = started.wait()
    assert sent and time.monotonic() - sent < 60
    return code, plain(shown.decode(errors="replace"))


def plain(shown: str) -> str:
    """Without the codes that move the cursor and colour."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "")
