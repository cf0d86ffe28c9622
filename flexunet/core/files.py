"""Small files that this project writes beside models and runs."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from flexunet.core.disk import naming
from flexunet.core.errors import UserError, last_line

# What a JSON document is made of, to be walked with isinstance.
Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
# A document whose keys nobody here decides, such as a configuration of whatever version.
JsonObject: TypeAlias = dict[str, Any]


def read_json(path: Path) -> Any:
    """The content, or None where there is no such file.

    Raises:
      UserError: it is damaged.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path}: not what this project wrote ({last_line(error)}), expected JSON: restore or remove it"
        ) from None


def file_sha256(path: Path) -> str:
    """Of the bytes of a file, in hexadecimal; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_file(path: Path, content: bytes) -> None:
    """Writes aside and renames, so that a reader sees the old content or the new one; an error leaves nothing aside.

    Raises:
      OSError: names `path`.
    """
    replace_files({path: content})


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """The same for files that belong together: all of them are written before the first takes its place.

    Raises:
      OSError: names the file.
    """
    asides = {path: path.with_name(f"{path.name}.incomplete") for path in contents}
    try:
        for path, content in contents.items():
            with naming(path):
                asides[path].write_bytes(content)
        for path, aside in asides.items():
            with naming(path):
                aside.replace(path)
    except OSError:
        for aside in asides.values():
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Makes `folder` and its parents; an error of the body removes again those that were not there, if nothing is in
    them.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError:
        with contextlib.suppress(OSError):
            for path in missing:
                path.rmdir()
        raise


def replace_text(path: Path, text: str) -> None:
    """Writes by one rename; what is no Unicode, as file names may be, is escaped."""
    replace_file(path, _encoded(text))


def write_json(path: Path, content: object) -> None:
    """Writes by one rename; JSON has no NaN, and one raises ValueError."""
    write_documents({path: content})


def write_documents(contents: Mapping[Path, object]) -> None:
    """JSON documents that belong together, as `replace_files` writes them."""
    texts = {path: json.dumps(content, indent=2, allow_nan=False) + "\n" for path, content in contents.items()}
    replace_files({path: _encoded(text) for path, text in texts.items()})


def _encoded(text: str) -> bytes:
    return text.encode(errors="backslashreplace")
