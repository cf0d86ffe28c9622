"""A peak of memory above what is idle, where the kernel tells one."""

from pathlib import Path

import numpy as np
import pytest

from flexunet.serving import memory
from flexunet.serving.memory import PeakMemory


def take(megabytes: int) -> None:
    np.ones(megabytes * 2**20, np.uint8)


def test_a_peak_is_that_since_the_watch_began() -> None:
    take(300)
    peak = PeakMemory()
    take(150)
    assert 120 < (peak.megabytes_above_idle() or 0) < 250


@pytest.mark.parametrize("missing", ["_CLEAR", "_STATUS"])
def test_a_kernel_that_tells_no_peak_refuses_no_model(
    missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, missing, tmp_path / "nothing" / "there")
    peak = PeakMemory()
    assert peak.idle_megabytes is None and peak.megabytes_above_idle() is None
