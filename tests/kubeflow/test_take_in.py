"""New photos become the next span, once, also where the step is killed or the photos are refused."""

import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from processes import ROOT
from waiting import wait_until

from flexunet.core.config.load import load_config
from flexunet.core.errors import UserError
from flexunet.core.lock import locked
from flexunet.core.problems import DataError
from flexunet.dataset.ingest import ingest
from flexunet.dataset.manifest import read_manifest
from kubeflow import take_in

Write = Callable[[Path, str], Path]


@pytest.fixture
def step(tmp_path: Path, write_toml: Write) -> Callable[..., str]:
    """Runs it with the folders `incoming`, `kept` and `records`; what it printed."""
    config = write_toml(tmp_path / "mine.toml", "")
    folders = [f"--{name}={tmp_path / name}" for name in ("incoming", "kept", "records")]

    def run(still: float = 0.01) -> str:
        arguments = ["--config", str(config), *folders, f"--still-seconds={still}"]
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
    assert sorted(path.name for path in (tmp_path / "kept").glob("*[0-9]")) == ["span-1", "span-2"]


def test_a_killed_step_goes_on_with_what_it_claimed_and_forgets_nothing_that_it_wrote(
    step: Callable[[], str], tmp_path: Path, write_colorful_pairs: Any
) -> None:
    incoming, records = tmp_path / "incoming", tmp_path / "records"
    write_colorful_pairs(tmp_path / "kept" / "waiting", 20)
    write_colorful_pairs(incoming, 24, seed=1)
    assert "records written" in step() and incoming.is_dir()
    assert spans(records) == {1: 20}
    # Between the records and the name of their photos.
    (tmp_path / "kept" / "span-1").rename(tmp_path / "kept" / "waiting")
    assert "all are in span 1" in step() and incoming.is_dir()
    assert (tmp_path / "kept" / "span-1").is_dir()
    # Between the two renames of an ingest: the version is there, what describes it is not.
    (records / "dataset.json").rename(records / ".dataset.json.incomplete")
    step()
    assert spans(records) == {1: 20, 2: 24}


def test_what_was_taken_in_before_is_refused_and_folders_without_files_are_nothing_new(
    step: Callable[[], str], tmp_path: Path, write_colorful_pairs: Any
) -> None:
    incoming = tmp_path / "incoming"
    write_colorful_pairs(incoming, 20)
    step()
    # As another program leaves them, of an operating system or a network disk.
    (incoming / "images").mkdir(parents=True)
    (incoming / ".DS_Store").touch()
    assert step() == f"{incoming}: nothing new\n"
    write_colorful_pairs(incoming, 20)
    with pytest.raises(UserError, match="all 20 images are in span 1 already"):
        step()
    assert spans(tmp_path / "records") == {1: 20}


def test_photos_that_are_still_being_copied_are_waited_for(
    step: Callable[..., str], tmp_path: Path, write_colorful_pairs: Any
) -> None:
    source, incoming = tmp_path / "source", tmp_path / "incoming"
    write_colorful_pairs(source, 20)
    # Images first: until their masks are there, all would be refused.
    files = sorted(path for path in source.rglob("*") if path.is_file())

    def copy() -> None:
        for path in files:
            target = incoming / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes()[:50])
            time.sleep(0.01)
            shutil.copy2(path, target)

    copied = threading.Thread(target=copy)
    copied.start()
    wait_until(lambda: (incoming / "images").is_dir() and any((incoming / "images").iterdir()))
    # Longer than a busy machine holds the copying up.
    assert "records written" in step(still=1.0)
    copied.join()
    assert spans(tmp_path / "records") == {1: 20}


@pytest.mark.parametrize("name", ["growing.png", ".growing.png.a1B2c3"])
def test_copying_that_never_ends_is_told(
    step: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The second is how rsync names what it has not finished."""
    incoming, ended = tmp_path / "incoming", threading.Event()
    incoming.mkdir()
    (incoming / "first.png").touch()
    monkeypatch.setattr(take_in, "_LONGEST_COPY", 0.1)

    def write() -> None:
        with (incoming / name).open("ab", buffering=0) as file:
            while not ended.wait(0.005):
                file.write(b"x")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        wait_until((incoming / name).exists)
        with pytest.raises(UserError, match="files still come in after 0 s, expected photos that are whole"):
            step(still=0.3)
    finally:
        ended.set()
        writer.join()
    assert (incoming / name).is_file() and not (tmp_path / "records").exists()


def test_two_at_once_do_not_take_in_the_same_photos(step: Callable[[], str], tmp_path: Path) -> None:
    with locked(tmp_path / "kept"), pytest.raises(UserError, match="another run is using this folder"):
        step()


def test_the_container_of_the_manifest_does_it_where_everybody_may_write(
    tmp_path: Path, write_toml: Write, write_colorful_pairs: Any, image_environment: dict[str, str]
) -> None:
    """Its own command, in a process that starts with Argo's umask of 0 in the folder where the volume is mounted."""
    [job] = yaml.safe_load_all((ROOT / "kubeflow/cluster/schedule/cronjob.yaml").read_text())
    [container] = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["initContainers"]
    given = {entry["name"]: entry["value"] for entry in container["env"]}

    def start() -> subprocess.CompletedProcess[str]:
        command = [*container["command"], *container["args"], "--still-seconds=0.1"]
        environment = {**image_environment, **given, "HOME": str(tmp_path)}
        return subprocess.run(
            command, cwd=tmp_path / "volume", env=environment, umask=0, capture_output=True, text=True, check=False
        )

    write_toml(tmp_path / "volume/mine.toml", "")
    write_colorful_pairs(tmp_path / "volume/incoming", 20)
    done = start()
    assert done.returncode == 0, done.stderr[-2000:]
    assert "records written" in done.stdout and spans(tmp_path / "volume/records") == {1: 20}
    assert (tmp_path / "volume/taken-in/span-1").is_dir()
    written = [*(tmp_path / "volume/records").rglob("*")]
    assert written and [path for path in written if path.stat().st_mode & 0o007] == []
    (tmp_path / "volume/incoming/images").mkdir(parents=True)
    (tmp_path / "volume/incoming/images/cut.png").write_bytes(b"no picture")
    again = start()
    assert again.returncode == 1 and spans(tmp_path / "volume/records") == {1: 20}
    errors = [line for line in again.stderr.splitlines() if line.startswith("error: ")]
    assert errors and all("expected" in line for line in errors) and "Traceback" not in again.stderr


def test_refused_photos_wait_to_be_mended_and_newer_ones_wait_behind_them(
    step: Callable[[], str], tmp_path: Path, write_colorful_pairs: Any
) -> None:
    incoming, claimed = tmp_path / "incoming", tmp_path / "kept" / "waiting"
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
    # Somebody ingests others by hand: these are not forgotten.
    write_colorful_pairs(tmp_path / "others", 24, seed=2)
    ingest(tmp_path / "others", tmp_path / "records", load_config(str(tmp_path / "mine.toml")), span="next")
    (claimed / "images" / broken.name).write_bytes(whole)
    step()
    assert spans(tmp_path / "records") == {1: 24, 2: 20} and incoming.is_dir()
    assert not claimed.exists() and (tmp_path / "kept" / "span-2").is_dir()
