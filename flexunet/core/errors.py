"""Errors that end a command; flexunet/cli/main.py maps each to its exit code."""

from typing import ClassVar, Final

# How tf.debugging.Assert begins in a graph.
_ASSERTION: Final = "assertion failed:"
_LONGEST_LINE: Final = 1000


class UserError(Exception):
    """The user's mistake: one line that says what, where, what was expected and how to repair it. Exit code 1."""


class NodeFailed(Exception):
    """A node of the pipeline raised. Exit code 3."""


class ModelRefused(Exception):
    """The gate refused the model: its message begins with WORDS. Exit code 2."""

    WORDS: ClassVar = "the gate refused the model"


class ServingRefused(Exception):
    """The serving validator refused the model: its message begins with WORDS. Exit code 4."""

    WORDS: ClassVar = "the serving validator refused the model"


class Interrupted(Exception):
    """The user stopped a command; says what is left of it. Exit code 130."""


def last_line(error: BaseException) -> str:
    """What went wrong, from messages that Beam and TensorFlow fill with tracebacks and whole records."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = next((line for line in lines if line.startswith(_ASSERTION)), lines[-1] if lines else "")
    return f"{type(error).__name__}: {line[:_LONGEST_LINE]}"
