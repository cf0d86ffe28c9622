"""New photos become the next span, once, also where the step is killed or the photos are refused."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from processes import ROOT

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


def test_the_container_of_the_manifest_does_it_where_everybody_may_write(
    tmp_path: Path, write_toml: Write, write_colorful_pairs: Any, image_environment: dict[str, str]
) -> None:
    """Its own command, in a process that starts with Argo's umask of 0 in the folder where the volume is mounted."""
    [job] = yaml.safe_load_all((ROOT / "kubeflow/cluster/schedule/cronjob.yaml").read_text())
    [container] = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["initContainers"]
    given = {entry["name"]: entry["value"] for entry in container["env"]}

    def start() -> subprocess.CompletedProcess[str]:
        command = [*container["command"], *container["args"]]
        environment = {**image_environment, **given, "HOME": str(tmp_path)}
        return subprocess.run(
            command, cwd=tmp_path / "volume", env=environment, umask=0, capture_output=True, text=True, check=False
        )

    write_toml(tmp_path / "volume/mine.toml", "")
    write_colorful_pairs(tmp_path / "volume/incoming", 20)
    done = start()
    assert done.returncode == 0, done.stderr[-2000:]
    assert "records written" in done.stdout and spans(tmp_path / "volume/records") == {1: 20}
    written = [path for name in ("records", "photos") for path in (tmp_path / "volume" / name).rglob("*")]
    assert [path for path in written if path.stat().st_mode & 0o007 and "photos" not in path.parts] == []
    (tmp_path / "volume/incoming/images").mkdir(parents=True)
    (tmp_path / "volume/incoming/images/cut.png").write_bytes(b"no picture")
    again = start()
    assert again.returncode == 1 and spans(tmp_path / "volume/records") == {1: 20}
    errors = [line for line in again.stderr.splitlines() if line.startswith("error: ")]
    assert errors and all("expected" in line for line in errors) and "Traceback" not in again.stderr


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
