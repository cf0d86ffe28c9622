"""Small files that this project writes beside models and runs."""

import json
from pathlib import Path
from typing import Any

from flexunet.core.errors import UserError, last_line


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
    """Writes aside and renames, so that a reader sees the old content or the new one."""
    aside = path.with_name(f"{path.name}.incomplete")
    aside.write_bytes(content)
    aside.replace(path)
