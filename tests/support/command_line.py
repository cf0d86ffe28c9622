"""The `flexunet` command in the process of the tests: exit code, stdout and stderr as a shell would have them.

A process of its own takes longer to start than a command takes to refuse; test_main.py starts some, where the process
is what is tested.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from flexunet.cli import main


class _Program:
    """What click's runner takes for a command: the entry point, which gives the exit codes of the contract."""

    name = "flexunet"

    def main(self, args: Sequence[str], prog_name: str, **_: Any) -> None:
        main.main([*args])


def exit_code(*arguments: object) -> int:
    """Of `flexunet ARGUMENTS`, as a process would end with it; its output goes to wherever pytest has it."""
    with pytest.raises(SystemExit) as ended:
        main.main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def flexunet(folder: Path, *arguments: str, **environment: str) -> Result:
    """`flexunet ARGUMENTS` typed in `folder`; what is written to the file descriptors 1 and 2 counts as well."""
    program: Any = _Program()
    with contextlib.chdir(folder):
        return CliRunner(capture="fd", catch_exceptions=False).invoke(program, arguments, env=environment)
