"""What a process may use of its machine."""

import os

import pytest

from flexunet.core.machine import usable_cores


def test_the_cores_of_a_process_are_not_all_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 3})
    assert usable_cores() == [3, 5]
    # As on a Mac.
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert usable_cores() == [0, 1, 2, 3]
