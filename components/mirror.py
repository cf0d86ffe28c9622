"""Copies of pushed versions in a remote store, through TFX's file systems: gs://, s3://, hdfs:// and their plug-ins.

The local folder stays what knows the versions; the store is its copy under the same numbers, which begin above those
that the store holds already. Object stores have no rename, so a reader may see a version in part. `saved_model.pb` goes
last and, when an old version goes, first: a server cannot load a version without it, and tries again. A copy that was
killed is finished, or removed, by the next push.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tfx.dsl.io import fileio

from flexunet.core.errors import UserError, last_line
from flexunet.core.features import EXPORTED_GRAPH
from flexunet.serving.model_config import read_named


def mirror_version(version: Path, store: str, keep: int | None) -> str:
    """Copies a version's folder to `store/<number>` unless it is there; returns its URL.

    The newest `keep` stay, and those that `models.config` beside the version names.

    Raises:
      UserError: the store cannot be used, or holds a higher number, which a server would take for the newest.
    """
    target = f"{store.rstrip('/')}/{version.name}"
    newest = newest_mirrored(store)
    if newest > int(version.name):
        raise UserError(
            f"{store}: holds version {newest}, expected none above {version.name}, the newest of {version.parent}: "
            "another folder is mirrored there; name another store in serving.mirror"
        )
    with _one_line(store):
        if not fileio.exists(f"{target}/{EXPORTED_GRAPH}"):
            _copy(version, target)
        named = read_named(version.parent)
        _prune(store, keep, named.versions if named else [])
    return target


def _prune(store: str, keep: int | None, served: Sequence[int]) -> None:
    """The newest few and what is served stay, none whose copy was broken off: it would take a whole one's place."""
    urls = [f"{store.rstrip('/')}/{number}" for number in mirrored_versions(store)]
    whole = [url for url in urls if fileio.exists(f"{url}/{EXPORTED_GRAPH}")]
    stay = [url for url in whole if int(url.rpartition("/")[2]) in served]
    for url in {*urls} - {*(whole[-keep:] if keep else whole), *stay}:
        _remove(url)


def newest_mirrored(store: str) -> int:
    """The highest number in the store; 0 if it is empty, or if there is no store.

    Raises:
      UserError: the store cannot be used.
    """
    return max(mirrored_versions(store), default=0) if store else 0


def mirrored_versions(store: str) -> list[int]:
    """The numbers of the versions in the store, ascending.

    Raises:
      UserError: the store cannot be used.
    """
    with _one_line(store):
        # Object stores give the names of folders with a slash.
        names = [str(name).rstrip("/") for name in fileio.listdir(store)] if fileio.exists(store) else []
    return sorted(int(name) for name in names if name.isdigit())


@contextmanager
def _one_line(store: str) -> Iterator[None]:
    """Each file system has errors of its own."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{store}: {last_line(error)}: expected a store that can be listed and written from here (serving.mirror)"
        ) from error


def _copy(version: Path, target: str) -> None:
    files = sorted(path for path in version.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: path == version / EXPORTED_GRAPH):
        copied = f"{target}/{path.relative_to(version)}"
        fileio.makedirs(copied.rpartition("/")[0])
        fileio.copy(str(path), copied, overwrite=True)


def _remove(target: str) -> None:
    if fileio.exists(f"{target}/{EXPORTED_GRAPH}"):
        fileio.remove(f"{target}/{EXPORTED_GRAPH}")
    fileio.rmtree(target)
