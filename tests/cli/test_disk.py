"""A disk that is full, closed or a file: one line that names it, the code of the contract, and nothing half-written."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from command_line import flexunet
from small_disk import closed, fill, small_disk
from steel import CLASSES, COLORS

from flexunet.core.files import made_folder, write_documents
from flexunet.dataset.synthetic import write_surfaces
from flexunet.serving.versions import Retention, push_version

TOML = "\n".join(f'[[classes]]\nname = "{c["name"]}"\ncolor = {c["color"]}' for c in CLASSES) + "\n"
NO_SPACE, NO_FOLDER = "no space left on the disk", "not a folder"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 surfaces, a config for them, and a FlexUNet configuration: only read."""
    folder = tmp_path_factory.mktemp("work")
    write_surfaces(folder / "photos", 20, 48, COLORS, seed=5)
    (folder / "mine.toml").write_text(TOML)
    return folder


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A disk without a free byte, but for those of names."""
    with small_disk(tmp_path / "full", 256) as disk:
        fill(disk)
        yield disk


def refused(ended: Result, where: Path, words: str) -> None:
    [line] = ended.stderr.splitlines()
    assert ended.exit_code == 1
    assert line.startswith(f"error: {where}: {words}") and ", expected " in line
    assert "incomplete" not in line and "Errno" not in line


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.name not in ("filler", ".lock")}


COMMANDS: dict[str, Callable[[Path, Path], tuple[str, ...]]] = {
    "init": lambda source, out: ("init", str(source / "photos"), "--out", str(out / "new.toml")),
    "ingest": lambda source, out: (
        "ingest", str(source / "photos"), str(out / "records"), "--config", str(source / "mine.toml")
    ),
}  # fmt: skip
WRITES = {"init": "new.toml", "ingest": "records/dataset.html", "evaluate": "measured"}
# Told before there is anything to measure.
EARLY: dict[str, Callable[[Path, Path], tuple[str, ...]]] = {
    **COMMANDS,
    "evaluate": lambda source, out: (
        "evaluate", "model", "records", "--config", str(source / "mine.toml"), "--out", str(out / "measured")
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk(command: str, source: Path, full: Path) -> None:
    refused(flexunet(source, *COMMANDS[command](source, full)), full / WRITES[command], NO_SPACE)
    assert names(full) <= {"records", "span-1"}


def test_a_disk_that_is_full_after_the_first_shard(source: Path, tmp_path: Path) -> None:
    """TensorFlow writes the records, and its error has no number. The page, 524 KiB, has room, and they have not."""
    with small_disk(tmp_path / "small", 560) as disk:
        ended = flexunet(source, *COMMANDS["ingest"](source, disk))
        refused(ended, disk / "records/span-1/version-1", NO_SPACE)
        assert names(disk) <= {"records", "span-1"}


@pytest.mark.parametrize("command", EARLY)
def test_a_folder_that_is_closed(command: str, source: Path, tmp_path: Path) -> None:
    with closed(tmp_path / "closed") as words:
        ended = flexunet(source, *EARLY[command](source, tmp_path / "closed"))
    refused(ended, tmp_path / "closed" / WRITES[command].partition("/")[0], words)


@pytest.mark.parametrize("command", EARLY)
def test_a_file_in_the_place_of_a_folder(command: str, source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(flexunet(source, *EARLY[command](source, tmp_path / "file")), tmp_path / "file", NO_FOLDER)


def test_documents_are_written_together_or_not_at_all(full: Path, tmp_path: Path) -> None:
    """As `flexunet evaluate --out` writes them, whose measuring takes too long for a test of the disk."""
    out = full / "deep/measured"
    with pytest.raises(OSError, match="No space left") as error, made_folder(out):
        write_documents({out / "metrics.json": {"words": "x" * 9000}, out / "details.json": {}})
    assert error.value.filename == str(out / "metrics.json") and names(full) == set()
    with small_disk(tmp_path / "older", 64) as older:
        both = [older / "metrics.json", older / "details.json"]
        write_documents(dict.fromkeys(both, "older"))
        with pytest.raises(OSError, match="No space left"), made_folder(older):
            write_documents(dict(zip(both, ("newer", "x" * 100_000), strict=True)))
        assert names(older) == {"metrics.json", "details.json"}
        assert [path.read_text() for path in both] == ['"older"\n'] * 2


def test_a_rollback_leaves_the_version_that_is_served(tmp_path: Path) -> None:
    with small_disk(tmp_path / "root", 512) as root:
        for number, mark in enumerate("ab"):
            model = tmp_path / mark
            model.mkdir()
            (model / "saved_model.pb").write_bytes(bytes([number]) * 60_000)
            push_version(model, root / "serving_model", {}, Retention())
        fill(root)
        ended = flexunet(tmp_path, "rollback", "--root", str(root))
        assert ended.exit_code == 1 and NO_SPACE in ended.stderr and "incomplete" not in ended.stderr
        assert {p.name for p in (root / "serving_model").iterdir() if p.is_dir()} == {"1", "2"}
        # With room again the same command does it.
        (root / "filler").unlink()
        assert flexunet(tmp_path, "rollback", "--root", str(root)).exit_code == 0
        assert (root / "serving_model/3/saved_model.pb").read_bytes() == bytes(60_000)


@pytest.mark.slow
def test_a_run_tells_where_its_log_is(source: Path, tmp_path: Path) -> None:
    """ML Metadata, TFX and TensorFlow meet the full disk, each with errors of its own: exit code 3, as of any node."""
    assert flexunet(source, *COMMANDS["ingest"](source, tmp_path)).exit_code == 0
    for kilobytes in (64, 1024):
        with small_disk(tmp_path / f"runs-{kilobytes}", kilobytes) as root:
            ended = flexunet(
                source, "run", "--config", "mine.toml", "--data", str(tmp_path / "records"), "--root", str(root)
            )
            problem, log = ended.stderr.splitlines()
            assert ended.exit_code == 3 and NO_SPACE in problem
            assert log.startswith(f"error: full log: {root / 'logs'}")
