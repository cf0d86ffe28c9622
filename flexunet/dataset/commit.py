"""An ingest takes effect at one moment, the rename of its version; the next one finishes or clears what a kill left."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flexunet.core.files import naming
from flexunet.core.results.dataset import Manifest
from flexunet.dataset.manifest import MANIFEST, read_manifest, version_path
from flexunet.reporting.data import PICTURE


def aside(path: Path) -> Path:
    """Where `path` is made before one rename moves it into place; readers do not look at names with a leading dot."""
    return path.with_name(f".{path.name}.incomplete")


@contextmanager
def committed(out: Path, manifest: Manifest, picture: bytes) -> Iterator[None]:
    """The body makes the versions of `manifest` complete by one rename; picture and manifest, staged before, follow.

    An error in the body leaves the old ones, and no trace of the new.
    """
    try:
        with naming(out / PICTURE):
            aside(out / PICTURE).write_bytes(picture)
        with naming(out / MANIFEST):
            aside(out / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        yield
    finally:
        _finish(out)


def settle(out: Path) -> None:
    """Finishes an ingest that was killed after its rename, and clears what one that was killed before it left."""
    _finish(out)
    for leftover in out.glob("span-*/.version-*.incomplete"):
        shutil.rmtree(leftover)


def newest_manifest(out: Path) -> Manifest | None:
    """`dataset.json` as `settle` would leave it; None where there is none."""
    if _took_effect(out):
        return json.loads(aside(out / MANIFEST).read_text(encoding="utf-8"))
    return read_manifest(out) if (out / MANIFEST).is_file() else None


def _finish(out: Path) -> None:
    """The manifest goes last when it is published and first when it is not: a kill in between changes nothing."""
    if _took_effect(out):
        for name in (PICTURE, MANIFEST):
            if aside(out / name).is_file():
                aside(out / name).replace(out / name)
    else:
        for name in (MANIFEST, PICTURE):
            if aside(out / name).is_file():
                aside(out / name).unlink()


def _took_effect(out: Path) -> bool:
    """Whether the versions are there that a staged manifest describes."""
    try:
        spans = json.loads(aside(out / MANIFEST).read_text(encoding="utf-8"))["spans"]
    except (FileNotFoundError, ValueError):  # None, or killed while writing it.
        return False
    return all(version_path(out, entry).is_dir() for entry in spans)
