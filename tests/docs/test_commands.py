"""Runs the commands of the tutorial, the README and the week as they stand there, in one folder; checks all others."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
import filelock
import numpy as np
import pytest
from PIL import Image
from steel import COLORS, NAMES
from waiting import wait_until

from docs import commands as documented
from docs import pictures
from flexunet.cli import main
from flexunet.core.outlines import labelme_document
from flexunet.live.store import hours_since
from flexunet.serving.model_config import read_named

ROOT = documented.ROOT
TUTORIAL, README, WEEK = documented.PAGES
# They import TFX or TensorFlow, which takes longer than what they do: run in this process, where both are there.
HEAVY = {"run", "evaluate", "inspect", "doctor", "ingest", "rollback"}
PORT, WATCH_PORT = 8500, 8600
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
}


class Reader:
    """Types the commands of a page; each only once, however many pages have it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.typed = folder, dict[str, int]()
        self._servers: list[subprocess.Popen[bytes]] = []

    def follow(self, page: str, before: Mapping[str, Callable[[Path], None]] = MappingProxyType({})) -> None:
        """`before`: what a person does in the folder before a command."""
        for block in documented.blocks(page):
            if block.title and not block.not_run:
                (self.folder / block.title).write_text(block.text)
            for command in documented.commands_of(block):
                if not command.not_run and (command.text not in self.typed or page == WEEK):
                    before.get(command.text, lambda folder: None)(self.folder)
                    self.typed[command.text] = self.type(command.text)
                    assert self.typed[command.text] == command.exit_code, command

    def type(self, text: str) -> int:
        words = shlex.split(text)
        if text.endswith("&"):
            return self._start(text.removesuffix("&"))
        if words[0] == "flexunet" and words[1] in HEAVY:
            with pytest.raises(SystemExit) as ended:
                main.main(words[1:])
            return int(ended.value.code or 0)
        return subprocess.run(["bash", "-c", text], cwd=self.folder, env=ENVIRONMENT, check=False).returncode

    def _start(self, text: str) -> int:
        port = WATCH_PORT if " live watch " in text else PORT
        assert not answers(port), f"port {port}, which the pages name, is in use by another process"
        # A shell without job control starts what runs in the background, such as these tests, deaf to Ctrl-C.
        command = ["env", "--default-signal=INT", "bash", "-c", f"exec {text}"]
        self._servers.append(subprocess.Popen(command, cwd=self.folder, env=ENVIRONMENT))
        wait_until(lambda: answers(port), lambda: self._servers[-1].poll() is not None)
        return 0

    def stop(self) -> None:
        while self._servers:
            server = self._servers.pop()
            server.send_signal(signal.SIGINT)
            try:
                assert server.wait() == 130
            finally:
                server.kill()


def answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    # The pages name the default port: two checkouts' tests take turns.
    with filelock.FileLock(Path(tempfile.gettempdir()) / "flexunet-documentation.lock"):
        before = Path.cwd()
        reader = Reader(tmp_path_factory.mktemp("reader"))
        os.chdir(reader.folder)
        yield reader
        reader.stop()
        os.chdir(before)


def test_the_tutorial(reader: Reader, capfd: pytest.CaptureFixture[str]):
    reader.follow(TUTORIAL)
    printed = capfd.readouterr()
    assert "the model is version 1" in printed.out and "the model is version 2" in printed.out
    assert "version 1 is served again as version 3" in printed.out
    assert "the gate refused the model" in printed.err
    assert len(list((reader.folder / "served").glob("*_mask.png"))) == 16


def test_the_readme(reader: Reader):
    reader.follow(README)
    assert {"flexunet rollback --root runs/mine"} <= set(reader.typed)


def test_the_metrics_page_has_every_field(reader: Reader):
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    report = reader.folder / "runs" / "mine" / "report"
    for name in ("metrics.json", "details.json"):
        for field in json.loads((report / name).read_text()):
            assert f"`{field}`" in page, f"{name}: {field}"


def test_the_records_page_has_every_signature(reader: Reader):
    from tensorflow.core.protobuf import saved_model_pb2

    page = (ROOT / "docs" / "reference" / "records.md").read_text()
    [model] = (reader.folder / "runs" / "mine" / "serving_model").glob("3/saved_model.pb")
    signatures = saved_model_pb2.SavedModel.FromString(model.read_bytes()).meta_graphs[0].signature_def
    for name, signature in signatures.items():
        if not name.startswith("__"):
            for word in (name, *signature.inputs, *signature.outputs):
                assert f"`{word}`" in page, f"{name}: {word}"


def test_how_long_nodes_took_is_known_to_the_next_run(reader: Reader):
    import ml_metadata as mlmd
    from tfx.orchestration import metadata

    from flexunet.history.durations import node_seconds

    database = reader.folder / "runs" / "mine" / "metadata.db"
    seconds = node_seconds(mlmd.MetadataStore(metadata.sqlite_metadata_connection_config(str(database))))
    assert seconds["Trainer"] > seconds["RecordSchema"] > 0


def test_a_refused_models_result_is_there_for_scripts(reader: Reader, capfd: pytest.CaptureFixture[str]):
    run = "flexunet run --config mine.toml --data records --root runs/mine"
    assert reader.type(f"{run} --set gate.min_foreground_dice=0.95 --json") == 2
    printed = capfd.readouterr()
    found = json.loads(printed.out)
    assert found == json.loads((reader.folder / "runs" / "mine" / "report" / "metrics.json").read_text())
    assert not found["blessed"] and "FAILED: foreground Dice" in printed.err


def test_the_picture_of_predictions_can_be_drawn_again(reader: Reader):
    """From a folder that looks like the demo's."""
    demo = reader.folder / "demo"
    (demo / "data").mkdir(parents=True)
    # The tutorial's surfaces with masks instead of labelme's files.
    assert reader.type("python -m flexunet.dataset.synthetic demo/data/surfaces --count 150 --size 64") == 0
    links = {"data/records": "records", "serving_model": "runs/mine/serving_model"}
    for link, target in links.items():
        (demo / link).symlink_to(reader.folder / target, target_is_directory=True)
    committed = Image.open(ROOT / "docs" / "images" / "predictions.png")
    assert pictures.predictions(demo).size == committed.size


@pytest.mark.slow
def test_the_week(reader: Reader, capfd: pytest.CaptureFixture[str]):
    """One more training; goes on where the tutorial ends, and comes after the tests that look at its records."""
    reader.stop()
    ingest = "flexunet ingest to-label records --config mine.toml --span next"
    reader.follow(WEEK, {ingest: correct})
    reader.stop()
    printed = capfd.readouterr()
    assert "brightness moved" in printed.err and "the gate refused" not in printed.err
    assert "is the canary" in printed.out and "images asked of both" in printed.out
    serving = reader.folder / "runs" / "mine" / "serving_model"
    newest = max(int(path.name) for path in serving.iterdir() if path.name.isdigit())
    named = read_named(serving)
    assert named and (named.stable, named.canary) == (newest, None)
    assert len([*(reader.folder / "promoted").glob("*_mask.png")]) == 60
    seen = [line for _, lines, _ in hours_since(reader.folder / "runs" / "mine" / "live", 0.0) for line in lines]
    # Monday's 8, and 60 three times; of the last all by the new version.
    assert len(seen) == 8 + 3 * 60 and {line.version for line in seen[-60:]} == {newest}


@pytest.mark.parametrize(("drift", "picks", "code"), [(0, 0, 0), (1, 0, 1), (5, 1, 0)])
def test_the_line_for_cron_picks_images_where_something_moved_and_only_once(
    tmp_path: Path, drift: int, picks: int, code: int
) -> None:
    """As cron runs it, two mornings long, with a command in the place of `flexunet`."""
    [line] = {command.text for command in documented.commands(WEEK) if "live queue" in command.text}
    (tmp_path / "flexunet").write_text(f"#!/bin/sh\n[ $2 = drift ] && exit {drift}\nmkdir to-label && echo >> picked\n")
    (tmp_path / "flexunet").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    for _ in range(2):
        assert subprocess.run(["sh", "-c", line], cwd=tmp_path, env=environment, check=False).returncode == code
    picked = tmp_path / "picked"
    assert (len(picked.read_text()) if picked.exists() else 0) == picks


def correct(folder: Path) -> None:
    """What a person does in a labelling tool, here by heart."""
    truth = {
        np.asarray(Image.open(path)).tobytes(): path.parent.with_name("masks") / path.name
        for name in ("dim", "more-photos")
        for path in (folder / name / "images").glob("*.png")
    }
    for path in (folder / "to-label").glob("*.png"):
        mask = np.asarray(Image.open(truth[np.asarray(Image.open(path)).tobytes()]).convert("RGB"))
        class_ids = np.argmax((mask[:, :, None] == np.array(COLORS, np.uint8)).all(axis=-1), axis=-1).astype(np.uint8)
        path.with_suffix(".json").write_text(json.dumps(labelme_document(path.name, class_ids, NAMES)))


def test_each_mark_gives_a_reason():
    marked = [block for page in documented.PAGES for block in documented.blocks(page) if block.not_run]
    assert all(block.language == "sh" and len(block.not_run) > 10 for block in marked)


@pytest.mark.parametrize("page", documented.pages())
def test_commands_of_every_page_are_taken(page: str):
    """Names of commands and options, required ones too; `make` targets."""
    for text in written(page):
        words = shlex.split(text.removesuffix("&"), comments=True)
        if words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word]
            assert all(re.search(rf"^(\S+ )*{target}( \S+)*:", MAKEFILE, re.M) for target in targets), text
        elif words[0] == "flexunet":
            parse(main.cli, words[1:])


MAKEFILE = (ROOT / "Makefile").read_text()


def written(page: str) -> Iterator[str]:
    """Lines of blocks that begin with a command, whatever the block is fenced as."""
    for block in documented.blocks(page):
        for line in block.text.replace("\\\n", " ").splitlines():
            if line.strip().startswith(("flexunet ", "make ")) and block.language in ("", "sh"):
                yield line.partition("    #")[0].strip()


def parse(group: Any, words: list[str]) -> None:
    """Raises click.UsageError for what the command line would refuse."""
    command, path = group, []
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        found = command.get_command(click.Context(command), name)
        if found is None:
            raise click.UsageError(f"{name} is no command of {' '.join(path)}")
        command, path = found, [*path, name]
    words = words[: next((i for i, word in enumerate(words) if word in (">", "|", "||")), len(words))]
    context = click.Context(command, info_name=" ".join(path))
    values, _, _ = command.make_parser(context).parse_args(words)
    if "help" not in values:
        missing = [p.name for p in command.params if p.required and values.get(str(p.name)) in (None, (), [])]
        if missing:
            raise click.UsageError(f"{' '.join(path)}: missing {', '.join(map(str, missing))}")
