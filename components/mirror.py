"""Copies of pushed versions in a remote store, through TFX's file systems: gs://, s3://, hdfs:// and their plug-ins.

The local folder stays what knows the versions; the store is its copy under the same numbers. Object stores have no
rename, so a reader may see a version in part. `saved_model.pb` goes last and, when an old version goes, first: a server
cannot load a version without it, and tries again. A copy that was killed is finished by the next push.
"""

from pathlib import Path
from typing import Final

from tfx.dsl.io import fileio

_GRAPH: Final = "saved_model.pb"


def mirror_version(version: Path, store: str, keep: int) -> str:
    """Copies a version's folder to `store/<number>` unless it is there, keeps the newest `keep`; returns its URL."""
    target = f"{store.rstrip('/')}/{version.name}"
    if not fileio.exists(f"{target}/{_GRAPH}"):
        files = sorted(path for path in version.rglob("*") if path.is_file())
        for path in sorted(files, key=lambda path: path == version / _GRAPH):
            copied = f"{target}/{path.relative_to(version)}"
            fileio.makedirs(copied.rpartition("/")[0])
            fileio.copy(str(path), copied, overwrite=True)
    for number in mirrored_versions(store)[:-keep]:
        _remove(f"{store.rstrip('/')}/{number}")
    return target


def mirrored_versions(store: str) -> list[int]:
    """The numbers of the versions in the store, ascending."""
    if not fileio.exists(store):
        return []
    # Object stores give the names of folders with a slash.
    names = [str(name).rstrip("/") for name in fileio.listdir(store)]
    return sorted(int(name) for name in names if name.isdigit())


def _remove(target: str) -> None:
    if fileio.exists(f"{target}/{_GRAPH}"):
        fileio.remove(f"{target}/{_GRAPH}")
    fileio.rmtree(target)
