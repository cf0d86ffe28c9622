"""Small files of strangers, read within bounds."""

import json
import re
from pathlib import Path
from typing import Final, NoReturn, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from flexunet.dataset.annotation import BadAnnotation

_TEXT_BYTES: Final = 64 * 2**20
# labelme keeps the image itself inside, as base64.
FILE_BYTES: Final = 256 * 2**20
# COCO's need seven.
_DEPTH: Final = 64
_CHUNK: Final = 2**20
_ESCAPED: Final = re.compile(rb"\\.", re.DOTALL)

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


def check_depth(path: Path) -> None:
    """Refuses JSON of lists in lists in lists: a streaming parser spells out the way to each, which fills the memory.

    Raises:
      BadAnnotation: it nests deeper than any format does.
      OSError: it cannot be read.
    """
    depth = quotes = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            # What is escaped is no quotation mark; a chunk may end in the middle of it.
            chunk += file.read((len(chunk) - len(chunk.rstrip(b"\\"))) % 2)
            content = np.frombuffer(_ESCAPED.sub(b"  ", chunk) if b"\\" in chunk else chunk, np.uint8)
            counted = np.cumsum(content == ord('"'), dtype=np.uint32) + quotes
            begins = (content == ord("[")) | (content == ord("{"))
            ends = (content == ord("]")) | (content == ord("}"))
            steps = np.where(counted % 2, 0, begins.astype(np.int8) - ends)
            depths = np.cumsum(steps, dtype=np.int64) + depth
            if depths.max() > _DEPTH:
                words = f"nests lists deeper than {_DEPTH}"
                raise BadAnnotation(words, "what the format prescribes", "export it again")
            depth, quotes = int(depths[-1]), int(counted[-1]) % 2


def parse_json(content: bytes, model: type[Model]) -> Model:
    """Checks JSON against `model`; depth and types are bounded by it.

    Raises:
      BadAnnotation: it is no JSON, or another; one line.
    """
    try:
        return model.model_validate_json(content.removeprefix(b"\xef\xbb\xbf"))
    except ValidationError as error:
        refuse(error)


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
