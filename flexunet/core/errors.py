"""Errors that end a command; each knows the exit code of the contract."""

from typing import ClassVar, Final

# How tf.debugging.Assert begins in a graph.
_ASSERTION: Final = "assertion failed:"
_LONGEST_LINE: Final = 1000


class CommandError(Exception):
    """Ends a command: its message is what the user reads, `exit_code` what the shell gets."""

    exit_code: ClassVar[int]


class UserError(CommandError):
    """The user's mistake: one line that says what, where, what was expected and how to repair it."""

    exit_code = 1


class ModelRefused(CommandError):
    """The gate refused the model: its message begins with WORDS."""

    exit_code = 2
    WORDS: ClassVar = "the gate refused the model"


class NodeFailed(CommandError):
    """A node of the pipeline raised."""

    exit_code = 3


class ServingRefused(CommandError):
    """The serving validator refused the model: its message begins with WORDS."""

    exit_code = 4
    WORDS: ClassVar = "the serving validator refused the model"


class Drifted(CommandError):
    """The images that are served are no longer those that the model was tried on."""

    exit_code = 5


class Interrupted(CommandError):
    """A person stopped a command; says what is left of it.

    `resumes`: whether the same command again goes on with it.
    """

    exit_code = 130

    def __init__(self, message: str, resumes: bool = True) -> None:
        super().__init__(message)
        self.resumes = resumes


def last_line(error: BaseException) -> str:
    """What went wrong, from messages that Beam and TensorFlow fill with tracebacks and whole records."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = next((line for line in lines if line.startswith(_ASSERTION)), lines[-1] if lines else "")
    return f"{type(error).__name__}: {line[:_LONGEST_LINE]}"
