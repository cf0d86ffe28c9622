"""`dataset.json`: what an ingest wrote."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from flexunet.core.errors import UserError

if TYPE_CHECKING:
    from flexunet.core.results.dataset import Manifest, SpanEntry

MANIFEST: Final = "dataset.json"
FORMAT: Final = 1


def read_manifest(data: Path) -> "Manifest":
    """`dataset.json` of an ingest.

    Raises:
      UserError: `data` holds no ingested records.
    """
    path = data / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        above = next((folder for folder in [*data.parents][:2] if (folder / MANIFEST).is_file()), None)
        repair = f"name {above}" if above else "run it first"
        raise UserError(f"{path}: not readable, expected the output of `flexunet ingest`: {repair}") from None
    # Other tools have a dataset.json too.
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or "spans" not in manifest:
        raise UserError(f"{path}: not written by `flexunet ingest` of this version: run it first")
    return cast("Manifest", manifest)


def newest_spans(data: Path, limit: int | None, newest: int | None = None) -> "list[SpanEntry] | None":
    """What is known of the records that a run will read, newest first; None for records that were made elsewhere.

    `limit` is how many spans that are at most, None for all; `newest` is the newest span to read, where that is not
    the newest there is.

    Raises:
      UserError: no records at all, not that span, or the newest are not those that the manifest describes.
    """
    found = versions(data)
    if newest is not None:
        if newest not in found:
            raise UserError(f"{data}: no span {newest}, expected one of {', '.join(map(str, found)) or 'none'}")
        found = {span: path for span, path in found.items() if span <= newest}
    if found and not (data / MANIFEST).exists():
        return None
    described = {entry["span"]: entry for entry in read_manifest(data)["spans"]}
    spans = sorted(found, reverse=True)[:limit]
    entries = [described[span] for span in spans if span in described]
    if not entries or [version_path(data, e) for e in entries] != [found[span] for span in spans]:
        raise UserError(f"{data}: {MANIFEST} does not describe its newest records: run `flexunet ingest` again")
    return entries


def version_path(data: Path, entry: "SpanEntry") -> Path:
    """The folder of records that an entry of the manifest is about."""
    return data / f"span-{entry['span']}" / f"version-{entry['version']}"


def versions(data: Path) -> dict[int, Path]:
    """The newest version of each span that has one."""
    numbered = sorted((_span_and_version(path), path) for path in data.glob("span-*/version-*"))
    return {span: path for (span, _), path in numbered}


def newest_versions(data: Path, limit: int | None) -> list[Path]:
    """The folders of records that are measured and trained on outside of a pipeline, the newest span first.

    `limit` is how many spans that are at most, None for all.

    Raises:
      UserError: there are none.
    """
    found = versions(data)
    if not found:
        raise UserError(f"{data}: no records here, expected the output of `flexunet ingest`")
    return [found[span] for span in sorted(found, reverse=True)[:limit]]


def newest_version(span_directory: Path) -> int:
    """The highest `version-M` of a span; 0 where there is none."""
    return max((_span_and_version(path)[1] for path in span_directory.glob("version-*")), default=0)


def _span_and_version(version: Path) -> tuple[int, int]:
    numbers = (version.parent.name.removeprefix("span-"), version.name.removeprefix("version-"))
    if not all(number.isdigit() for number in numbers):
        raise UserError(f"{version}: expected span-N/version-M: remove or rename it")
    return int(numbers[0]), int(numbers[1])
