"""A request and its answer, as they went over the wire, and how one process tells another of them."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import IO, Final, Literal

from pydantic import TypeAdapter

Interface = Literal["grpc", "rest"]

# Bytes of a body, as it comes and unpacked; one beyond this is not kept: it would be most of the memory.
MOST_BODY: Final = 32 * 2**20


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
      packed: whether `answer` is compressed with gzip.
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
    packed: bool = False


@dataclass(frozen=True)
class Note:
    """Something to count: what, when in seconds since 1970, and how often."""

    what: str
    moment: float
    number: int = 1


# A message: the lengths of its three parts, then a JSON document, the request's body and the answer's.
_LENGTHS: Final = struct.Struct(">III")
_TOLD: Final[TypeAdapter[Exchange | Note]] = TypeAdapter(Exchange | Note)


def tell(stream: IO[bytes], told: Exchange | Note) -> None:
    """Writes one of them; nothing that is read again is run.

    Raises:
      OSError: nobody reads any more.
    """
    bodies = (told.request, told.answer) if isinstance(told, Exchange) else (b"", b"")
    bare = replace(told, request=b"", answer=b"") if isinstance(told, Exchange) else told
    document = _TOLD.dump_json(bare)
    stream.write(_LENGTHS.pack(len(document), *map(len, bodies)))
    for part in (document, *bodies):
        stream.write(part)
    stream.flush()


def read_told(stream: IO[bytes]) -> Iterator[Exchange | Note]:
    """Until the stream ends; a message that breaks off is left out: who wrote it was killed."""
    while len(head := stream.read(_LENGTHS.size)) == _LENGTHS.size:
        lengths = _LENGTHS.unpack(head)
        parts = [stream.read(length) for length in lengths]
        if [len(part) for part in parts] != [*lengths]:
            return
        document, request, answer = parts
        told = _TOLD.validate_python(json.loads(document))
        yield replace(told, request=request, answer=answer) if isinstance(told, Exchange) else told
