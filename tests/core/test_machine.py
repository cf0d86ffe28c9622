"""What a process may use of its machine."""

import os
from pathlib import Path

import pytest

from flexunet.core import machine


@pytest.fixture(autouse=True)
def control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a container would read its limits; there are none."""
    monkeypatch.setattr(machine, "_CONTROL_GROUP", tmp_path)
    return tmp_path


def test_the_cores_of_a_process_are_not_all_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 3})
    assert machine.usable_cores() == [3, 5]
    # As on a Mac.
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert machine.usable_cores() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("max 100000", 4),
        ("200000 100000", 2),
        ("250000 100000", 3),
        ("20000 100000", 1),
        ("1600000 100000", 4),
    ],
)
def test_a_container_may_use_as_many_cores_as_its_quota_is_worth(
    limit: str, cores: int, control_group: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (control_group / "cpu.max").write_text(f"{limit}\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 8, 9})
    drawn = [machine.usable_cores() for _ in range(100)]
    assert all(one == sorted(set(one)) and len(one) == cores and {*one} <= {2, 3, 8, 9} for one in drawn)
    # Else all containers of a node would crowd its first cores.
    assert {core for one in drawn for core in one} == {2, 3, 8, 9}


def test_a_container_may_use_as_much_memory_as_it_is_allowed(control_group: Path) -> None:
    whole = machine.usable_memory()
    (control_group / "memory.max").write_text("max\n")
    assert machine.usable_memory() == whole > 64_000_000
    (control_group / "memory.max").write_text("64000000\n")
    assert machine.usable_memory() == 64_000_000
    (control_group / "memory.max").write_text("9223372036854771712\n")
    assert machine.usable_memory() == whole
