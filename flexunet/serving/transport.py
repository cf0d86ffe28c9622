"""One way to call a model, wherever it runs: TF Serving over gRPC or REST, or a folder on this machine."""

import contextlib
import itertools
import random
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, Self, TypeVar

import numpy as np

from flexunet.core.errors import UserError
from flexunet.serving.limits import BATCH_ROWS, CLIENT_SECONDS
from flexunet.serving.wire import MODEL_NAME

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
# After so long the first of two addresses is tried again.
_AGAIN_SECONDS: Final = 30.0

_Answer = TypeVar("_Answer")


class ServingError(UserError):
    """No answer: what was called, and why not."""


class UnreachableError(ServingError):
    """Nobody answers at that address."""


class NotServedError(ServingError):
    """A server that will answer no such request: it has no such model, knows no such caller, or speaks otherwise."""


class UnknownLabelError(ServingError):
    """A server without a configuration that gives this label."""


class BusyError(ServingError):
    """Refused for now: all of the server's threads are taken, its queue is full, it has no version ready, or it gave up
    the request's batch at the deadline of another caller."""


# What a server says of a label that it does not know.
UNKNOWN_LABEL: Final = "Unrecognized servable version label"
# What TensorFlow says, as an error of its own, of a batch that was given up before it began: docs/decisions/0003.
GIVEN_UP: Final = "Missing 0-th output from"


@dataclass(frozen=True)
class Options:
    """How a server is called.

    Attributes:
      model_name: the server's name of the model.
      version: its version; by default the newest that the server has ready.
      label: of its version, such as `stable`, in place of the number; both raise UserError.
      deadline: seconds for the answer to a request, all attempts included; more rows than `BATCH_ROWS` are several
        requests, one after the other, and each has as long.
      connect: of these, seconds for a connection: a machine that is there takes it at once, one that drops what it is
        sent never does.
      attempts: tries of a call that was answered UNAVAILABLE or RESOURCE_EXHAUSTED, or given up with its batch, with
        pauses that double from 0.1 to 5 s: 12 are half a minute. Other failures are never tried again.
      unreachable_attempts: likewise where nobody answers: a pod that is replaced is back within a second, a wrong
        address never is.
      max_message_bytes: the largest request and answer.
      certificate_authority: PEM file that signs the server's certificate, for grpcs and https; by default the system's.
      certificate, key: PEM files by which this client proves who it is.
    """

    model_name: str = MODEL_NAME
    version: int | None = None
    label: str = ""
    deadline: float = CLIENT_SECONDS
    connect: float = 5.0
    attempts: int = 12
    unreachable_attempts: int = 4
    max_message_bytes: int = 64 * 2**20
    certificate_authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if self.version is not None and self.label:
            raise UserError(f"version {self.version} and the label {self.label}, expected one of them")


class Model(Protocol):
    """A model that answers."""

    def run(
        self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Runs one signature; strings are object arrays of bytes, `outputs` names those wanted, all if it is empty.

        A server is asked for `BATCH_ROWS` rows at a time.

        Raises:
          ServingError: no answer; several threads may call at once.
        """
        ...

    def close(self) -> None:
        """Ends connections and frees memory."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


class Closing:
    """What `with` needs of a model."""

    def close(self) -> None:
        """Ends connections and frees memory."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Remote(Closing):
    """A server, asked in parts that it takes at once.

    Args:
      options: how it is called.
    """

    def __init__(self, options: Options) -> None:
        self._options = options

    @abstractmethod
    def ask(self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """One request, as `Model.run`."""

    def run(
        self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Runs a signature: see `Model.run`."""
        answers = [self.ask(signature, part, outputs) for part in _in_parts(inputs)]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    def patiently(self, attempt: Callable[[float], _Answer]) -> _Answer:
        """`attempt(seconds left)`, again while it raises BusyError or UnreachableError, within the options' bounds."""
        ends, pause = time.monotonic() + self._options.deadline, _FIRST_PAUSE
        for number in itertools.count(1):
            try:
                return attempt(max(0.001, ends - time.monotonic()))
            except (BusyError, UnreachableError) as error:
                most = self._options.attempts
                if isinstance(error, UnreachableError):
                    most = min(most, self._options.unreachable_attempts)
                # Clients that were refused together do not come again together.
                wait = pause * random.uniform(0.5, 1)  # noqa: S311  no secret
                if number >= most or time.monotonic() + wait >= ends:
                    raise
            time.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)
        raise AssertionError("counting does not end")


class Either(Closing):
    """Two ways to one server, such as a proxy and the server's own address: the first, while it can be reached.

    Args:
      first: asked; where it cannot be reached, `second` is asked the same at once, and for half a minute before
        `first` is tried again.
      second: asked in its place.
    """

    def __init__(self, first: Model, second: Model) -> None:
        self._first, self._second, self._until = first, second, 0.0

    def run(
        self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Runs a signature: see `Model.run`."""
        if time.monotonic() >= self._until:
            try:
                return self._first.run(signature, inputs, outputs)
            except UnreachableError:
                self._until = time.monotonic() + _AGAIN_SECONDS
        return self._second.run(signature, inputs, outputs)

    def close(self) -> None:
        self._first.close()
        self._second.close()


class Split(Closing):
    """Two versions of a model, of which one answers a share of the requests.

    Args:
      stable: asked, and wherever `canary` is not served, which ends while clients run.
      canary: asked for the share.
      share: of the requests, 0 to 1.
    """

    def __init__(self, stable: Model, canary: Model, share: float) -> None:
        self._stable, self._canary, self._share = stable, canary, share

    def run(
        self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Runs a signature: see `Model.run`."""
        if random.random() < self._share:  # noqa: S311  no secret
            with contextlib.suppress(UnknownLabelError, NotServedError):
                return self._canary.run(signature, inputs, outputs)
        return self._stable.run(signature, inputs, outputs)

    def close(self) -> None:
        self._stable.close()
        self._canary.close()


def _in_parts(inputs: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Parts of at most `BATCH_ROWS` rows each; what has no rows is sent as it is, for the server to refuse.

    Raises:
      ServingError: no row, for which a server that batches would wait without end.
    """
    rows = {array.shape[0] if array.ndim else -1 for array in inputs.values()}
    if rows == {0}:
        raise ServingError("the batch is empty, expected at least one row")
    if len(rows) != 1 or -1 in rows:
        yield dict(inputs)
        return
    for start in range(0, rows.pop(), BATCH_ROWS):
        yield {name: array[start : start + BATCH_ROWS] for name, array in inputs.items()}
