"""What is wrong with a user's data, one line each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flexunet.core.errors import UserError


@dataclass(frozen=True)
class Problem:
    """A mistake in the data: where, what, what was expected, how to repair it."""

    file: Path
    what: str
    expected: str
    repair: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}; expected {self.expected}: {self.repair}"


class DataError(UserError):
    """Data that cannot be used; lists every problem, not just the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))
