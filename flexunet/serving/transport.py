"""One way to call a model, wherever it runs: TF Serving over gRPC or REST, or a folder on this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from flexunet.core.errors import UserError
from flexunet.serving.wire import MODEL_NAME


class ServingError(UserError):
    """No answer: what was called, and why not."""


@dataclass(frozen=True)
class Options:
    """How a server is called.

    Attributes:
      model_name: the server's name of the model.
      version: its version; by default the newest that the server has ready.
      deadline: seconds for an answer, all attempts included.
      attempts: tries of a call that was answered UNAVAILABLE or RESOURCE_EXHAUSTED; no other failure is tried again.
      max_message_bytes: the largest request and answer.
      certificate_authority: PEM file that signs the server's certificate, for grpcs and https; by default the system's.
      certificate, key: PEM files by which this client proves who it is.
    """

    model_name: str = MODEL_NAME
    version: int | None = None
    deadline: float = 60.0
    attempts: int = 4
    max_message_bytes: int = 64 * 2**20
    certificate_authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class Model(Protocol):
    """A model that answers."""

    def run(
        self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Runs one signature; strings are object arrays of bytes, `outputs` names those wanted, all if it is empty.

        Raises:
          ServingError: no answer; several threads may call at once.
        """
        ...

    def close(self) -> None:
        """Ends connections and frees memory."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: Any) -> None: ...


class Closing:
    """What `with` needs of a model."""

    def close(self) -> None:
        """Ends connections and frees memory."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()
