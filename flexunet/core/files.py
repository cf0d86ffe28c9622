"""Small files that this project writes beside models and runs."""

import contextlib
import json
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


def replace_file(path: Path, content: bytes) -> None:
    """Writes aside and renames, so that a reader sees the old content or the new one; an error leaves nothing aside.

    Raises:
      OSError: names `path`.
    """
    aside = path.with_name(f"{path.name}.incomplete")
    with naming(path):
        try:
            aside.write_bytes(content)
            aside.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
            raise


def replace_text(path: Path, text: str) -> None:
    """Writes by one rename; what is no Unicode, as file names may be, is escaped."""
    replace_file(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, content: object) -> None:
    """Writes by one rename; JSON has no NaN, and one raises ValueError."""
    replace_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
