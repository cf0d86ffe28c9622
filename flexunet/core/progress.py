"""How far long work is, told as log records, which a terminal draws as a bar: nodes know nothing of terminals."""

import logging
from dataclasses import dataclass
from typing import Final

LOGGER: Final = logging.getLogger("flexunet.progress")
_STEP: Final = "flexunet_step"


@dataclass(frozen=True)
class Step:
    """`done` of `total` steps of a task, and words about them; `ended`: there will be no more."""

    task: str
    done: int
    total: int
    words: str = ""
    ended: bool = False


def is_watched() -> bool:
    """Whether anybody looks: else steps need not be told."""
    return LOGGER.isEnabledFor(logging.DEBUG)


def tell(step: Step) -> None:
    """Hands a step to whoever watches."""
    LOGGER.debug("%s: %d of %d", step.task, step.done, step.total, extra={_STEP: step})


def step_of(record: logging.LogRecord) -> Step | None:
    """The step that a record was made for."""
    return getattr(record, _STEP, None)
