"""What the commands of all containers share: who runs, how they end, where their words go."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import click
from rich.console import Console

import kubeflow
import pipeline
from flexunet.cli.console import LOGGER_NAME
from flexunet.cli.main import exit_with
from flexunet.core.errors import UserError

# Argo's executor, which starts a container's command, leaves 0: whatever we write, served models among it, could be
# changed by everybody who mounts the volume. The group may read, others nothing.
UMASK: Final = 0o027
# As a shell counts a process that SIGTERM ended.
TERMINATED: Final = 128 + signal.SIGTERM
# Kubernetes shows what a container wrote here as the reason why it ended; longer ones it cuts.
_TERMINATION_LOG: Final = Path("/dev/termination-log")
_TERMINATION_BYTES: Final = 4096


def run(command: click.Command) -> NoReturn:
    """Runs a container's command to the exit codes of `flexunet`; libraries log to stderr, we print to stdout."""
    os.umask(UMASK)
    signal.signal(signal.SIGTERM, _terminate)
    _log_to_stderr()
    exit_with(lambda: _told(lambda: _checked(command)))


def console() -> Console:
    """Plain lines on stdout, which nothing cuts: a pod's log is no terminal. It remembers what it printed."""
    return Console(highlight=False, markup=False, soft_wrap=True, width=200, record=True)


def check_identity() -> None:
    """PyPI has packages named `kubeflow`, too: ours lies beside `pipeline` and comes first on the path.

    Raises:
      UserError: another one does.
    """
    ours = Path(pipeline.__path__[0]).resolve().with_name("kubeflow")
    found = Path(next(iter(kubeflow.__path__))).resolve()
    if found != ours:
        raise UserError(
            f"the package kubeflow is that of {found}, expected {ours}: put {ours.parent} on PYTHONPATH first"
        )


def _checked(command: click.Command) -> object:
    check_identity()
    return command.main(standalone_mode=False)


def _told(command: Callable[[], object]) -> object:
    """Leaves an error's words where Kubernetes shows them: `kubectl describe` of the pod."""
    try:
        return command()
    except Exception as error:
        _leave_words(str(error))
        raise


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    """A preempted node ends at once: what it needs to go on is on the volume, which SIGKILL needs as well."""
    del signum, frame
    words = "stopped by SIGTERM: a retry goes on, Trainer with its last finished epoch"
    os.write(sys.stderr.fileno(), f"error: {words}\n".encode())
    _leave_words(words)
    os._exit(TERMINATED)


def _leave_words(words: str) -> None:
    try:
        if _TERMINATION_LOG.exists():
            _TERMINATION_LOG.write_bytes(words.encode()[:_TERMINATION_BYTES])
    except OSError:
        return


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    logger = logging.getLogger(LOGGER_NAME)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
