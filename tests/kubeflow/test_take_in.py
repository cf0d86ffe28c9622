"""New photos become the next span, once, also where the step is killed or the photos are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flexunet.core.problems import DataError
from flexunet.dataset.manifest import read_manifest
from kubeflow import take_in

Write = Callable[[Path, str], Path]


@pytest.fixture
def step(tmp_path: Path, write_toml: Write) -> Callable[[], str]:
    """Runs it with the folders `incoming`, `kept` and `records`; what it printed."""
    config = write_toml(tmp_path / "mine.toml", "")
    folders = [f"--{name}={tmp_path / name}" for name in ("incoming", "kept", "records")]

    def run() -> str:
        arguments = ["--config", str(config), *folders]
        return CliRunner().invoke(take_in.main, arguments, catch_exceptions=False, standalone_mode=False).output

    return run


def spans(records: Path) -> dict[int, int]:
    """Images by span."""
    counts = {e["span"]: e["splits"].values() for e in read_manifest(records)["spans"]}
    return {span: sum(split["images"] for split in splits) for span, splits in counts.items()}


def test_what_lies_there_becomes_the_next_span_and_stays(
    step: Callable[[], str], tmp_path: Path, write_colorful_pairs: Any
) -> None:
    incoming = tmp_path / "incoming"
    assert step() == f"{incoming}: nothing new\n"
    write_colorful_pairs(incoming, 20)
    assert "records written" in step()
    assert spans(tmp_path / "records") == {1: 20} and not incoming.exists()
    incoming.mkdir()
    assert step() == f"{incoming}: nothing new\n"
    incoming.rmdir()
    write_colorful_pairs(incoming, 24, seed=1)
    step()
    assert spans(tmp_path / "records") == {1: 20, 2: 24} and not incoming.exists()
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["span-1", "span-2"]


def test_refused_photos_wait_to_be_mended_and_newer_ones_wait_behind_them(
    step: Callable[[], str], tmp_path: Path, write_colorful_pairs: Any
) -> None:
    incoming, claimed = tmp_path / "incoming", tmp_path / "kept" / "span-1"
    write_colorful_pairs(incoming, 20)
    [broken, *_] = sorted((incoming / "images").iterdir())
    whole = broken.read_bytes()
    broken.write_bytes(b"no picture")
    with pytest.raises(DataError, match=broken.name):
        step()
    assert not (tmp_path / "records").exists() and not incoming.exists()
    write_colorful_pairs(incoming, 4, seed=1)
    with pytest.raises(DataError):
        step()
    (claimed / "images" / broken.name).write_bytes(whole)
    step()
    assert spans(tmp_path / "records") == {1: 20} and incoming.is_dir()
