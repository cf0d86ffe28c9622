"""What is wrong with a user's data, one line each."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from flexunet.core.errors import UserError


class Problem(NamedTuple):
    """A mistake in the data: where (a file, a record, a split), what, what was expected, how to repair it."""

    where: Path | str
    what: str
    expected: str
    repair: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; expected {self.expected}: {self.repair}"


class DataError(UserError):
    """Data that cannot be used; lists every problem, not just the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))
