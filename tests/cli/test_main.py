"""The command line: exit codes of the contract, one clear line for a mistake, nothing left behind, nothing heavy."""

import json
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from command_line import flexunet
from processes import ENVIRONMENT, ROOT
from steel import CLASSES

from flexunet.cli import main
from flexunet.cli.command import CommandGroup, walk
from flexunet.core.errors import Interrupted, ModelRefused, NodeFailed, ServingRefused, UserError

HEAVY = ("tensorflow", "tfx", "kfp", "apache_beam", "numpy", "keras")


def process(cwd: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "flexunet.cli.main", *arguments]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def refusal(cwd: Path, *arguments: str) -> str:
    """The one line that a user's mistake gives; exit code 1, and the folder is as before."""
    before = sorted(cwd.rglob("*"))
    done = flexunet(cwd, *arguments)
    assert done.exit_code == 1, done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ") and len(line) < 400
    assert sorted(cwd.rglob("*")) == before
    return line


def write_records(data: Path, classes: list[dict[str, Any]]) -> None:
    """As much of an ingest's output as is looked at before a run."""
    facts = {"classes": classes, "ignore_color": None, "leaking_groups": 0, "splits": {"train": {"images": 99}}}
    write_manifest(data, {"format": 1, "spans": [{"span": 1, "version": 1, **facts}]})
    (data / "span-1" / "version-1").mkdir(parents=True)


def write_manifest(data: Path, manifest: Any) -> None:
    data.mkdir()
    (data / "dataset.json").write_text(json.dumps(manifest))


COMMANDS = dict(walk(main.cli))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "Missing command"),
        ("kubeflow", "Missing command: see flexunet kubeflow --help"),
        ("nope", "No such command 'nope'"),
        ("runn", "No such command 'runn'; did you mean run or runs?"),
        ("run --confg demo", "No such option '--confg'; did you mean --config"),
        ("--completion tcsh", "'bash', 'zsh', 'fish'"),
        ("--nope", "No such option"),
        ("run --nope", "No such option '--nope'"),
        ("run --data d --root r", "Missing option '--config'"),
        ("run --config demo --root r", "Missing option '--data'"),
        ("run --config demo --data d", "Missing option '--root'"),
        ("run --config", "'--config' requires an argument: see flexunet run --help"),
        ("ingest photos --config demo", "Missing argument 'OUT'"),
        ("ingest --config demo", "Missing argument 'SOURCE'"),
        ("ingest photos out --config demo --span 0", "'--span': 0"),
        ("ingest photos out --config demo --span x", "'--span': 'x'"),
        ("ingest photos out --config demo --splits x", "'keep', 'regroup'"),
        ("predict model --out o", "Missing argument 'IMAGE_OR_DIR...'"),
        ("predict model image.png", "Missing option '--out'"),
        ("predict model image.png --out o --concurrency 0", "'--concurrency': 0"),
        ("serve", "Missing argument 'MODEL_DIR'"),
        ("serve m --grpc-port 70000", "'--grpc-port': 70000"),
        ("rollback", "Missing option '--root'"),
        ("rollback --root r --to 0", "'--to': 0"),
        ("report", "Missing option '--root'"),
        ("runs", "Missing option '--root'"),
        ("lineage", "Missing argument 'MODEL_DIR'"),
        ("clean --root r", "Missing option '--keep'"),
        ("clean --root r --keep 0", "'--keep': 0"),
        ("demo extra", "unexpected extra argument (extra)"),
        ("evaluate model data", "Missing option '--config'"),
        ("evaluate model --config demo", "Missing argument 'DATA'"),
        ("run --config demo --data d --root r --accept-refused", "'--accept-refused' requires an argument"),
        ("run --config demo --data d --root r --accept-refused=", "empty, expected a reason"),
    ],
)
def test_usage_errors(tmp_path: Path, arguments: str, words: str):
    line = refusal(tmp_path, *arguments.split())
    assert words in line and "--help" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("run --config nope --data d --root r", "nope: no such file, expected a TOML file or a preset: demo"),
        ("run --config demo --data d --root r --set train.epochz=3", "unknown key train.epochz; did you mean epochs?"),
        ("run --config demo --data d --root r --set epochs=3", "unknown key epochs; did you mean train.epochs?"),
        ("run --config demo --data d --root r --set gate.epochs=3", "unknown key gate.epochs; did you mean train.epoc"),
        ("run --config demo --data d --root r --set trian.epochs=3", "unknown key trian; did you mean train?"),
        ("run --config demoo --data d --root r", "did you mean demo?"),
        ("run --config demo --data d --root r --set train.epochs", "expected section.key=value"),
        (
            "run --config demo --data d --root r",
            "not readable, expected the output of `flexunet ingest`: run it first",
        ),
        ("demo --set train.epochs=0", "train.epochs: got 0, expected"),
        (
            "kubeflow compile --config demo --image i --output new/package.yaml",
            "new: no such folder, expected one for package.yaml: make it, or name another",
        ),
        ("ingest photos out --config nope", "nope: no such file"),
        ("ingest photos out --config demo", "photos: no such folder"),
        ("predict model image.png --out o", "image.png: no image here"),
        ("evaluate model d --config demo", "not readable, expected the output of `flexunet ingest`: run it first"),
        ("serve nowhere", "nowhere: no model here"),
        ("rollback --root r", "r/serving_model: no such folder, expected the --root of a run"),
        ("report --root r", "r/report: no such folder, expected the --root of a run that came to its end"),
        ("runs --root r", "r: no metadata.db, expected the --root of `flexunet run`"),
        ("lineage nowhere", "nowhere: no model here"),
        ("clean --root r --keep 2", "r: no metadata.db, expected the --root of `flexunet run`"),
    ],
)
def test_mistakes_in_config_and_paths(tmp_path: Path, arguments: str, words: str):
    assert words in refusal(tmp_path, *arguments.split())


def test_a_broken_palette_is_refused_with_file_and_line(tmp_path: Path):
    (tmp_path / "mine.toml").write_text('[[classes]]\nname = "background"\ncolor = [0, 0, 0)\n')
    line = refusal(tmp_path, "run", "--config", "mine.toml", "--data", "d", "--root", "r")
    assert line.startswith("error: mine.toml: not valid TOML: ") and "line 3" in line


@pytest.mark.parametrize(
    "classes",
    [
        CLASSES[:3],
        [CLASSES[i] for i in (0, 2, 1, 3)],
        [*CLASSES[:3], {"name": "rust", "color": [255, 0, 0]}],
        [*CLASSES[:3], {"name": "scratches", "color": [254, 0, 0]}],
    ],
)
def test_records_of_other_classes(tmp_path: Path, classes: list[dict[str, Any]]):
    write_records(tmp_path / "records", classes)
    line = refusal(tmp_path, "run", "--config", "demo", "--data", "records", "--root", "r")
    assert "span 1 has the classes background [0, 0, 0], " in line
    assert "expected those of the config, background [0, 0, 0]" in line and "ingest again" in line


@pytest.mark.parametrize(
    "manifest",
    [{"channel_names": {"0": "R"}, "labels": {"background": 0, "rust": 1}, "file_ending": ".png"}, [], {"classes": 3}],
    ids=["nnU-Net", "list", "number"],
)
def test_a_dataset_json_of_something_else(tmp_path: Path, manifest: Any):
    write_manifest(tmp_path / "records", manifest)
    line = refusal(tmp_path, "run", "--config", "demo", "--data", "records", "--root", "r")
    assert "records" in line and "flexunet ingest" in line


@pytest.mark.parametrize("command", ["demo", "run --config demo --data records"])
def test_a_root_that_is_a_file(tmp_path: Path, command: str):
    write_records(tmp_path / "records", CLASSES)
    (tmp_path / "taken").write_text("not a folder")
    assert "taken" in refusal(tmp_path, *command.split(), "--root", "taken")


# One process for all of them: what one command imports, the next would find.
HELPS = f"""
import contextlib, io, json, sys
from flexunet.cli.main import main

helps = []
for path in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            main([*path, "--help"])
        except SystemExit as end:
            code = end.code
    heavy = [name for name in {HEAVY!r} if name in sys.modules]
    helps.append([printed.getvalue(), errors.getvalue(), code, heavy])
print(json.dumps(helps))
"""


@pytest.fixture(scope="module")
def helps(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], list[Any]]:
    """For each command what `--help` prints to stdout and stderr, its exit code, and what heavy is imported."""
    command = [sys.executable, "-c", HELPS, json.dumps([*COMMANDS])]
    folder = tmp_path_factory.mktemp("helps")
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return dict(zip(COMMANDS, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "main")
def test_help_is_complete_and_imports_nothing_heavy(helps: dict[tuple[str, ...], list[Any]], path: tuple[str, ...]):
    printed, errors, code, heavy = helps[path]
    assert printed.startswith(" ".join(("Usage: flexunet", *path)))
    assert (errors, code, heavy) == ("", 0, [])


@pytest.mark.parametrize(
    ("arguments", "code", "printed"), [(["--version"], 0, "flexunet, version"), (["nope"], 1, "error: No such command")]
)
def test_the_process_ends_with_the_exit_code(tmp_path: Path, arguments: list[str], code: int, printed: str):
    done = process(tmp_path, *arguments)
    assert done.returncode == code and (done.stdout + done.stderr).startswith(printed)


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "main")
def test_help_ends_in_examples_that_the_command_takes(path: tuple[str, ...]):
    command = COMMANDS[path]
    assert command.examples
    for example in command.examples:
        words = shlex.split(example.removeprefix('eval "$(').removesuffix(')"'), comments=True)
        assert words[0] == "flexunet" and words[1 : 1 + len(path)] == list(path)
        if path:
            options = [word for word in words[1 + len(path) :] if word != ">"]
            command.make_parser(click.Context(command)).parse_args(options)


def test_the_top_level_stays_short():
    assert len([path for path in COMMANDS if len(path) == 1]) <= 19


def test_examples_are_not_wrapped(tmp_path: Path):
    printed = flexunet(tmp_path, "run", "--help").stdout
    assert all(f"  {example}\n" in printed for example in COMMANDS[("run",)].examples)


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "main")
def test_every_command_takes_verbose(path: tuple[str, ...]):
    if not isinstance(COMMANDS[path], click.Group):
        assert any("-v" in parameter.opts for parameter in COMMANDS[path].params)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(tmp_path: Path, shell: str):
    done = flexunet(tmp_path, "--completion", shell)
    assert (done.exit_code, done.stderr) == (0, "") and "_FLEXUNET_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("flexunet ro", "rollback"),
        ("flexunet run --accept", "--accept-refused"),
        ("flexunet run --config syn", "synthetic-neu-seg"),
        ("flexunet run --set train.ep", "train.epochs="),
        ("flexunet run --set train.loss=f", "train.loss=focal_dice"),
        ("flexunet run --set train.warm_start=", "train.warm_start=true"),
        ("flexunet serve --gr", "--grpc-port"),
    ],
)
def test_completions(tmp_path: Path, line: str, completed: str):
    """As bash asks for them through the script."""
    asked = {"_FLEXUNET_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    done = flexunet(tmp_path, **asked)
    assert f"plain,{completed}" in done.stdout.splitlines(), done.stderr


def test_a_result_for_scripts_is_all_of_stdout(tmp_path: Path, write_colorful_pairs: Any):
    write_colorful_pairs(tmp_path / "photos", 12)
    done = flexunet(tmp_path, "ingest", "photos", "records", "--config", "demo", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["path"] == "records/span-1/version-1" and found["splits"]["train"]["images"] >= 9
    assert "records written" in done.stderr


def test_each_step_tells_the_next_as_a_shell_takes_it(tmp_path: Path, write_colorful_pairs: Any):
    """Names have blanks; and two whose names are no Unicode, an image and what is left out, are taken and told."""
    write_colorful_pairs(tmp_path / "my photos", 30)
    Path(os.fsdecode(os.fsencode(tmp_path / "my photos") + b"/Pr\xfcf.docx")).touch()
    for folder in ("images", "masks"):
        path = tmp_path / "my photos" / folder / "000.png"
        path.rename(path.with_name(os.fsdecode(b"Pr\xfcf.png")))

    def next_of(*typed: str) -> list[str]:
        done = flexunet(tmp_path, *typed)
        assert done.exit_code == 0, done.stderr
        return shlex.split(done.stdout.rpartition("next: ")[2])

    _, *check = next_of("init", "my photos", "--out", "my config.toml")
    assert next_of(*check) == ["the", "same", "without", "--check"]
    run = ["flexunet", "run", "--config", "my config.toml", "--data", "records", "--root", "runs/my config"]
    assert next_of(*(word for word in check if word != "--check")) == run


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&-"])
def test_a_shell_may_close_streams(tmp_path: Path, closed: str):
    command = f"{shlex.quote(sys.executable)} -m flexunet.cli.main init . --out mine.toml {closed}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("error: .: no images found") or (closed == "2>&-" and not done.stderr)


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("my runs/serving_model", "no run has pushed one: `flexunet runs --root 'my runs'` tells why"),
        ("my runs", "of a run: name my runs/serving_model"),
    ],
)
def test_a_run_without_a_model_tells_where_to_look(tmp_path: Path, named: str, words: str):
    (tmp_path / "my runs").mkdir()
    (tmp_path / "my runs/metadata.db").touch()
    assert refusal(tmp_path, "serve", named).endswith(words)


def test_a_version_in_place_of_the_records_is_told_their_folder(tmp_path: Path):
    write_records(tmp_path / "records", CLASSES)
    line = refusal(tmp_path, "run", "--config", "demo", "--data", "records/span-1/version-1", "--root", "r")
    assert line.endswith("expected the output of `flexunet ingest`: name records")


def test_a_second_span_is_told_to_be_read_alone(tmp_path: Path, write_colorful_pairs: Any):
    for seed, span in enumerate(("1", "2")):
        write_colorful_pairs(tmp_path / span, 12, seed=seed)
        done = flexunet(tmp_path, "ingest", span, "records", "--config", "demo", "--span", span)
        assert done.exit_code == 0 and ("a run reads span 2 alone" in done.stdout) == (span == "2")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["run", "-h"]])
def test_help_exits_0(tmp_path: Path, arguments: list[str]):
    done = flexunet(tmp_path, *arguments)
    assert (done.exit_code, done.stderr) == (0, "") and done.stdout.startswith("Usage: flexunet")


def test_version(tmp_path: Path):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    done = flexunet(tmp_path, "--version")
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"flexunet, version {version}\n", "")


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (UserError("bad.png: no mask"), 1, "error: bad.png: no mask\n"),
        (UserError("a.png: no mask\nb.png: no mask"), 1, "error: a.png: no mask\nerror: b.png: no mask\n"),
        (click.UsageError("two\nlines"), 1, "error: two lines: see flexunet --help\n"),
        (ModelRefused("Dice 0.1, expected 0.5"), 2, "error: Dice 0.1, expected 0.5\n"),
        (ServingRefused("it is too slow"), 4, "error: it is too slow\n"),
        (NodeFailed("Trainer failed\nfull log: x.log"), 3, "error: Trainer failed\nerror: full log: x.log\n"),
    ],
)
def test_exit_codes(capsys: pytest.CaptureFixture[str], error: Exception, code: int, printed: str):
    def command():
        raise error

    assert main.exit_code(command) == code
    assert capsys.readouterr() == ("", printed)


def test_interrupted_with_words_of_the_command(capsys: pytest.CaptureFixture[str]):
    @CommandGroup(name="group").command(interrupted="half is done")
    def slow() -> None:
        raise KeyboardInterrupt

    assert main.exit_code(lambda: slow.main([], standalone_mode=False), ["slow", "--root", "a b"]) == 130
    assert capsys.readouterr().err == "error: interrupted; half is done; to go on: flexunet slow --root 'a b'\n"
    with pytest.raises(Interrupted):
        slow.main([], standalone_mode=False)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.exceptions.Abort()])
def test_interrupted(capsys: pytest.CaptureFixture[str], error: BaseException):
    def command():
        raise error

    assert main.exit_code(command) == 130
    out, line = capsys.readouterr()
    assert out == "" and line.startswith("error: interrupted") and line.count("\n") == 1


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), ("done", 0), (1, 1)])
def test_exit_code_of_a_command_that_returns(result: Any, code: int):
    assert main.exit_code(lambda: result) == code


def test_an_error_of_ours_is_not_hidden():
    def command():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main.exit_code(command)
