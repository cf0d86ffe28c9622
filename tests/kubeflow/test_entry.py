"""How a container ends, and what it checks before it begins."""

from pathlib import Path

import click
import pytest

from flexunet.core.errors import ModelRefused, NodeFailed, UserError
from kubeflow import entry, files, run_node


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("a mistake"), 1),
        (ModelRefused("too bad"), 2),
        (NodeFailed("broken"), 3),
        (NodeFailed("x" * 10_000), 3),
    ],
    ids=["mistake", "refused", "failed", "long"],
)
def test_an_error_is_one_line_a_code_and_the_pods_last_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    """Of a long message Kubernetes keeps 4,096 bytes."""
    message = tmp_path / "termination-log"
    message.touch()
    monkeypatch.setattr(entry, "_TERMINATION_LOG", message)
    monkeypatch.setattr(entry.signal, "signal", lambda *given: None)
    monkeypatch.setattr(entry.os, "umask", lambda mask: None)
    monkeypatch.setattr("sys.argv", ["container"])

    @click.command()
    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        entry.run(command)
    assert ended.value.code == code
    assert capsys.readouterr().err == f"error: {error}\n"
    assert message.read_text() == str(error)[:4096]


def test_a_node_with_gpus_that_sees_none_fails_instead_of_training_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--node", "Trainer", "--root", str(tmp_path), "--run-id", "r"]
    monkeypatch.setenv("FLEXUNET_GPUS", "16")
    with pytest.raises(NodeFailed, match=r"Trainer sees \d+ GPUs, expected 16 \(kubeflow\.nodes\.Trainer\.gpus\)"):
        run_node.main(command, standalone_mode=False)
    monkeypatch.delenv("FLEXUNET_GPUS")
    # It goes on to what comes next.
    with pytest.raises(UserError, match=r"expected what the step prepare writes"):
        run_node.main(command, standalone_mode=False)


def test_a_run_that_was_not_prepared_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pipeline\.pb: No such file or directory, expected what the step prepare"):
        files.Run(tmp_path, "r").read_pipeline()


def test_what_belongs_to_another_user_is_counted_and_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ours", "foreign"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o666)
    (tmp_path / "link").symlink_to("nowhere")
    change = Path.chmod

    def refuse(path: Path, mode: int) -> None:
        if path.name == "foreign":
            raise PermissionError
        change(path, mode)

    monkeypatch.setattr(Path, "chmod", refuse)
    assert files.close_to_others(tmp_path, 0o027) == (1, 1)
    assert (tmp_path / "ours").stat().st_mode & 0o777 == 0o640
