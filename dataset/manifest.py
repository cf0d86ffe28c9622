"""`dataset.json`: what an ingest wrote."""

import json
from pathlib import Path
from typing import Any, Final

from pipeline.errors import UserError

MANIFEST: Final = "dataset.json"


def read_manifest(data: Path) -> dict[str, Any]:
    """`dataset.json` of an ingest.

    Raises:
      UserError: `data` holds no ingested records.
    """
    path = data / MANIFEST
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        raise UserError(f"{path}: not readable, expected the output of `flexunet ingest`: run it first") from None
