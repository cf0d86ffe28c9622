"""Small files of strangers, read within bounds."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NoReturn, TypeVar

import ijson
from pydantic import BaseModel, ValidationError

from flexunet.dataset.annotation import BadAnnotation

_TEXT_BYTES: Final = 64 * 2**20
# labelme keeps the image itself inside, as base64.
FILE_BYTES: Final = 256 * 2**20
# No format nests deeper than ten.
_DEEPEST: Final = 64

Model = TypeVar("Model", bound=BaseModel)


def read_bytes(path: Path, limit: int = FILE_BYTES) -> bytes:
    """The content of a file.

    Raises:
      BadAnnotation: it cannot be read, or is larger than `limit` bytes.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise BadAnnotation(f"cannot be read ({error.strerror})", "a readable file", "replace it") from None
    if len(content) > limit:
        raise BadAnnotation(
            f"has more than {limit:,} bytes", "an annotation file", "split it, or leave images out of it"
        )
    return content


def read_text(path: Path) -> str:
    """A small text file in UTF-8, with or without byte order mark.

    Raises:
      BadAnnotation: it is none.
    """
    return as_text(read_bytes(path, _TEXT_BYTES))


def as_text(content: bytes) -> str:
    """Bytes as UTF-8 text.

    Raises:
      BadAnnotation: they are none.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadAnnotation("is no text in UTF-8", "UTF-8", "save it anew") from None


def parse_json(content: bytes, model: type[Model]) -> Model:
    """Checks JSON against `model`; depth and types are bounded by it.

    Raises:
      BadAnnotation: it is no JSON, or another; one line.
    """
    try:
        return model.model_validate_json(content.removeprefix(b"\xef\xbb\xbf"))
    except ValidationError as error:
        refuse(error)


def top_level(file: IO[bytes]) -> Iterator[tuple[str, str]]:
    """Each key of a JSON object with the event that begins its value; nothing where the document is no object.

    `ijson.parse` would tell the path to every event, which takes gigabytes where 100,000 brackets are nested.

    Raises:
      ijson.JSONError: no JSON, as far as it was read.
    """
    key = None
    for depth, event, value in nested_events(file):
        if key is not None:
            yield key, event
        key = value if (depth, event) == (1, "map_key") else None
        if (depth, event) == (1, "start_array"):
            return


def nested_events(file: IO[bytes]) -> Iterator[tuple[int, str, Any]]:
    """Events of ijson and their values, each with the number of brackets that are open after it.

    Raises:
      ijson.JSONError: no JSON, as far as it was read.
    """
    depth = 0
    for event, value in ijson.basic_parse(file):
        depth += (event in ("start_map", "start_array")) - (event in ("end_map", "end_array"))
        yield depth, event, value


def require_shallow(path: Path) -> None:
    """Reads JSON to its end, before `ijson.items` does, whose memory grows with the square of the depth.

    Raises:
      BadAnnotation: it is no JSON, or brackets are nested deeper than in any annotation.
    """
    with streaming(path) as file:
        for depth, _, _ in nested_events(file):
            if depth > _DEEPEST:
                raise BadAnnotation(f"has brackets in more than {_DEEPEST} brackets", "annotations", "export it again")


@contextmanager
def streaming(path: Path) -> Iterator[IO[bytes]]:
    """A JSON file to be read by ijson, whose errors become one line.

    Raises:
      BadAnnotation: it is no JSON, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            yield file
    except ValidationError:
        raise
    except (ijson.JSONError, UnicodeDecodeError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:80]
        raise BadAnnotation(f"no valid JSON ({reason})", "JSON", "export it again") from None
    except OSError as error:
        raise BadAnnotation(f"cannot be read ({error.strerror})", "a readable file", "replace it") from None


def refuse(error: ValidationError) -> NoReturn:
    """Raises the first of pydantic's problems in one line."""
    problem = error.errors(include_url=False, include_context=False)[0]
    if problem["type"] == "json_invalid":
        raise BadAnnotation(
            f"no valid JSON ({problem['msg'].rpartition(': ')[2]})", "JSON", "export it again"
        ) from None
    where = ".".join(map(str, problem["loc"])) or "the document"
    got = json.dumps(problem["input"], default=str)[:60] if not isinstance(problem["input"], bytes) else "bytes"
    raise BadAnnotation(
        f"{where}: {problem['msg']}, got {got}", "what the format prescribes", "export it again"
    ) from None
