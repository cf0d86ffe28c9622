"""A request and its answer, as they went over the wire."""

from dataclasses import dataclass
from typing import Literal

Interface = Literal["grpc", "rest"]


@dataclass(frozen=True)
class Exchange:
    """One of them.

    Attributes:
      interface: what was spoken.
      path: gRPC's method or HTTP's path.
      headers: of the request, names in lower case; only those that somebody asked for.
      request, answer: whole bodies; empty where `sampled` is false.
      succeeded: whether there was an answer, by the code of the interface.
      received: when the request began, in seconds since 1970.
      seconds: from there to the end of the answer.
      sampled: whether the bodies were kept.
    """

    interface: Interface
    path: str
    headers: dict[str, str]
    request: bytes
    answer: bytes
    succeeded: bool
    received: float
    seconds: float
    sampled: bool = True


@dataclass(frozen=True)
class Note:
    """Something to count: what, when in seconds since 1970, and how often."""

    what: str
    moment: float
    number: int = 1
