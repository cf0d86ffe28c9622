"""What reaches the terminal and what the log file, in a process of its own: file descriptors 1 and 2 are redirected."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from flexunet.cli import console
from flexunet.core import progress
from flexunet.core.progress import Step

ROOT = Path(__file__).resolve().parents[2]
# With PYTHONUNBUFFERED, C's stdout would be unbuffered too and nothing could be left in it.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
HEADER = """
import ctypes, logging, os, subprocess, sys, warnings
from pathlib import Path
from flexunet.cli.console import captured_output
log_file = Path(sys.argv[1])
"""


def run(log_file: Path, script: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", HEADER + script, str(log_file)],
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    return tmp_path / "run" / "logs" / "1.log"


@pytest.mark.parametrize(
    ("statement", "logged"),
    [
        ("os.write(1, b'noise\\n')", "noise"),
        ("os.write(2, b'noise\\n')", "noise"),
        ("print('noise')", "noise"),
        ("print('noise', file=sys.stderr)", "noise"),
        ("warnings.warn('noise')", "UserWarning: noise"),
        ("logging.getLogger('tensorflow').warning('noise')", "noise"),
        ("subprocess.run(['echo', 'noise'])", "noise"),
        ("ctypes.CDLL(None).puts(b'noise')", "noise"),
    ],
)
def test_what_libraries_print_goes_to_the_log(log_file: Path, statement: str, logged: str):
    done = run(log_file, f"with captured_output(log_file) as console:\n    {statement}\n")
    assert (done.stdout, done.stderr) == ("", "")
    assert logged in log_file.read_text()


def test_our_own_lines_go_to_the_terminal_in_order(log_file: Path):
    script = """
print("before")
sys.stderr.write("before, on stderr\\n")
with captured_output(log_file) as console:
    console.print("a line of " + "x" * 300)
    os.write(1, b"noise")
    print("noise")
    logging.getLogger("flexunet").info("epoch 1 [red] é")
    logging.getLogger("flexunet.train").warning("epoch 2")
    logging.getLogger("flexunet.train").debug("not shown")
    logging.getLogger("other").warning("noise")
print("after")
sys.stderr.write("after, on stderr\\n")
"""
    done = run(log_file, script)
    assert done.stdout.splitlines() == ["before", "a line of " + "x" * 300, "epoch 1 [red] é", "epoch 2", "after"]
    assert done.stderr == "before, on stderr\nafter, on stderr\n"
    assert "before" not in log_file.read_text() and "after" not in log_file.read_text()


@pytest.mark.parametrize("root_logger", ["", "logging.basicConfig()"])
def test_lines_of_our_logger_are_in_the_log_too(log_file: Path, root_logger: str):
    """Once, whether or not a library has given the root logger a handler, as absl does for TFX."""
    script = (
        f"{root_logger}\nwith captured_output(log_file):\n    logging.getLogger('flexunet.train').info('epoch 1')\n"
    )
    assert run(log_file, script).stdout == "epoch 1\n"
    assert log_file.read_text().count("epoch 1") == 1


@pytest.mark.parametrize("error", ["RuntimeError", "KeyboardInterrupt", "SystemExit"])
def test_an_exception_restores_everything(log_file: Path, error: str):
    script = f"""
opened = len(os.listdir("/proc/self/fd"))
handlers = list(logging.getLogger("flexunet").handlers)
try:
    with captured_output(log_file):
        print("noise")
        raise {error}("bad")
except BaseException as caught:
    print(type(caught).__name__, caught)
sys.stdout.flush()
os.write(1, b"on 1\\n")
os.write(2, b"on 2\\n")
print(len(os.listdir("/proc/self/fd")) - opened, logging.getLogger("flexunet").handlers == handlers)
"""
    done = run(log_file, script)
    assert done.stdout.splitlines() == [f"{error} bad", "on 1", "0 True"]
    assert done.stderr == "on 2\n"
    assert log_file.read_text() == "noise\n"


def test_a_second_capture_adds_to_the_log(log_file: Path):
    script = """
for step in range(2):
    with captured_output(log_file) as console:
        print("step", step)
        console.print(f"line {step}")
"""
    assert run(log_file, script).stdout == "line 0\nline 1\n"
    assert log_file.read_text() == "step 0\nstep 1\n"


@pytest.mark.parametrize("ending", [Step("training", 0, 0, ended=True), None], ids=["told", "raised"])
def test_steps_are_a_bar_with_the_time_left_that_goes_away(ending: Step | None):
    """Also of a task that raised and told nobody."""
    shown = Console(file=io.StringIO(), force_terminal=True, width=150)
    with console.drawn_steps(shown):
        assert progress.is_watched()
        for done in (13, 14):
            progress.tell(Step("training", done, 30, "epoch 2/3"))
        if ending:
            progress.tell(ending)
    printed = shown.file.getvalue()
    assert "epoch 2/3" in printed and "14/30" in printed and re.search(r"\d:\d\d:\d\d|-:--:--", printed)
    assert printed.endswith(("\x1b[?25h", "\x1b[2K")) and not progress.is_watched()


def test_steps_are_drawn_on_a_terminal_only():
    with console.drawn_steps(Console(file=io.StringIO())):
        assert not progress.is_watched()


VERBOSE = """
import click
from flexunet.cli.command import CommandGroup
from flexunet.cli.options import AS_JSON
from flexunet.cli.console import print_result

@click.group(cls=CommandGroup)
def cli():
    pass

@cli.command()
@AS_JSON
def work():
    with captured_output(log_file) as console:
        console.print("a line")
        os.write(2, b"noise of C\\n")
        print("noise")
        logging.getLogger("flexunet.train").info("epoch 1")
    print_result({"score": 1})

cli.main(["work", *sys.argv[2:]], standalone_mode=False)
"""


def work(log_file: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", HEADER + VERBOSE, str(log_file), *options]
    return subprocess.run(
        command, env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )


def test_verbose_shows_the_whole_log_once(log_file: Path):
    done = work(log_file, "--verbose")
    assert sorted(done.stdout.splitlines()) == ["a line", "epoch 1", "noise", "noise of C"]
    assert sorted(log_file.read_text().splitlines()) == ["epoch 1", "noise", "noise of C"]


def test_verbose_shows_what_is_kept_nowhere():
    assert "noise of C" in work(Path(os.devnull), "-v").stdout
    assert "noise" not in work(Path(os.devnull)).stdout


def test_json_leaves_stdout_to_the_result(log_file: Path):
    done = work(log_file, "--json")
    assert done.stdout == '{\n  "score": 1\n}\n'
    assert done.stderr.splitlines() == ["a line", "epoch 1"]
    assert work(log_file).stdout.splitlines() == ["a line", "epoch 1"]
