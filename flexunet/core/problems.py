"""What is wrong with a user's data, one line each."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from flexunet.core.errors import UserError

# More lines than that are not read: a tally stands behind them.
LISTED: Final = 20
_KINDS_SHOWN: Final = 6


class Problem(NamedTuple):
    """A mistake in the data: where (a file, a record, a split), what, what was expected, how to repair it."""

    where: Path | str
    what: str
    expected: str
    repair: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; expected {self.expected}: {self.repair}"


class DataError(UserError):
    """Data that cannot be used; lists every problem, not just the first, each on a line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


def kinds_of(problems: Iterable[Problem]) -> Counter[str]:
    """How many expected what: words that, unlike the others, are the same for all problems of a kind."""
    return Counter(problem.expected for problem in problems)


def tally(kinds: Counter[str]) -> str:
    """How many problems there are of each kind, in one line, the commonest first."""
    shown = kinds.most_common(_KINDS_SHOWN)
    words = [f"{count:,} expected {expected}" for expected, count in shown]
    rest = kinds.total() - sum(count for _, count in shown)
    words += [f"{rest:,} of {len(kinds) - len(shown)} other kinds"] if rest else []
    return "; ".join(words)
