"""Errors that end a command; pipeline/cli.py maps each to its exit code."""


class UserError(Exception):
    """The user's mistake: one line that says what, where, what was expected and how to repair it. Exit code 1."""


class NodeFailed(Exception):
    """A node of the pipeline raised. Exit code 3."""


class ModelRefused(Exception):
    """The gate refused the model. Exit code 2."""


class ServingRefused(Exception):
    """The serving validator refused the model. Exit code 4."""
