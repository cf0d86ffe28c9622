"""The folder that TF Serving polls: numeric versions that appear by one rename, go by one, and never come twice.

A version is written aside under a name that is no number, flushed to disk and renamed, so that a server sees all of it
or nothing, whenever the writer is killed. `.pushes.json` beside the versions remembers the highest number ever given,
which a server may still hold in memory after its folder is gone, and the models that were rolled back.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.errors import UserError
from pipeline.features import ASSETS_EXTRA, EXPORTED_PROVENANCE

_STATE: Final = ".pushes.json"
_INCOMPLETE: Final = ".incomplete"
_DELETED: Final = ".deleted"


@dataclass(frozen=True)
class Rollback:
    """What a rollback did: `withdrawn` was the newest version, `restored` is served again as `version`.

    `mirror` is the URL of the store that got a copy of it when it was pushed, or "".
    """

    withdrawn: int
    restored: int
    version: Path
    mirror: str


def versions(directory: Path) -> list[int]:
    """The versions that TF Serving sees in `directory`, ascending."""
    if not directory.is_dir():
        return []
    return sorted(int(child.name) for child in directory.iterdir() if child.name.isdigit())


def push_version(model: Path, directory: Path, provenance: dict[str, Any], keep: int) -> Path:
    """Copies `model` to a new version of `directory`, the highest number ever, and keeps the newest `keep`.

    Pushing what the newest version already holds changes nothing.

    Returns:
      The version's folder.
    """
    existing = versions(directory)
    digest = content_hash(model)
    if existing and pushed_hash(directory / str(existing[-1])) == digest:
        return directory / str(existing[-1])
    directory.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(directory)
    target = directory / str(_next_number(directory))
    aside = directory / f".{target.name}{_INCOMPLETE}"
    shutil.copytree(model, aside)
    extra = aside / ASSETS_EXTRA
    extra.mkdir(exist_ok=True)
    words = json.dumps({**provenance, "version": int(target.name), "sha256": digest}, indent=2)
    (extra / EXPORTED_PROVENANCE).write_text(words + "\n", encoding="utf-8")
    _flush(aside)
    aside.rename(target)
    _flush_path(directory)
    _prune(directory, keep)
    return target


def roll_back(directory: Path, keep: int, to: int | None = None) -> Rollback:
    """Pushes an earlier version's model again under a new number, and marks the newest one's as rolled back.

    Killed in between, the same call again does the rest.

    Args:
      directory: the folder of the versions.
      keep: how many versions stay.
      to: the version to restore; by default the newest that holds another model, one not rolled back itself.

    Raises:
      UserError: no such version, or none to go back to.
    """
    existing = versions(directory)
    if not existing:
        raise UserError(f"{directory}: no version here, expected the folder that a run pushed to")
    newest = existing[-1]
    withdrawn = version_hash(directory / str(newest))
    restored = _earlier(directory, existing, withdrawn) if to is None else _named(directory, existing, withdrawn, to)
    source = directory / str(restored)
    digest = version_hash(source)
    with _state(directory) as state:
        state["rolled_back"] = {k: v for k, v in state["rolled_back"].items() if k != digest} | {withdrawn: newest}
    origin = _provenance(source)
    version = push_version(source, directory, {**origin, "restored": restored, "withdrawn": newest}, keep)
    return Rollback(newest, restored, version, origin.get("mirror", ""))


def rolled_back(directory: Path) -> dict[str, int]:
    """`content_hash` of each model that was rolled back, and the version that it was."""
    return _read_state(directory)["rolled_back"]


def content_hash(model: Path) -> str:
    """sha256 over the names and bytes of a SavedModel's files: ids and paths begin anew with a new database.

    What the pusher adds is left out, so that a version has the hash of the model it was made from.
    """
    digest = hashlib.sha256()
    for path in sorted(p for p in model.rglob("*") if p.is_file()):
        name = path.relative_to(model)
        if name != Path(ASSETS_EXTRA) / EXPORTED_PROVENANCE:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()


def pushed_hash(version: Path) -> str | None:
    """`content_hash` of the model that a version was made from; None for a version that somebody else made."""
    return _provenance(version).get("sha256")


def version_hash(version: Path) -> str:
    """As `pushed_hash`, computed where it is not noted."""
    return pushed_hash(version) or content_hash(version)


def _provenance(version: Path) -> dict[str, Any]:
    path = version / ASSETS_EXTRA / EXPORTED_PROVENANCE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _earlier(directory: Path, existing: list[int], withdrawn: str) -> int:
    gone = {*rolled_back(directory), withdrawn}
    choices = [number for number in existing[:-1] if version_hash(directory / str(number)) not in gone]
    if not choices:
        raise UserError(
            f"{directory}: no version before {existing[-1]} holds another model that was not rolled back; "
            f"name one with --to: {', '.join(map(str, existing[:-1])) or 'there is none'}"
        )
    return choices[-1]


def _named(directory: Path, existing: list[int], withdrawn: str, to: int) -> int:
    if to not in existing:
        raise UserError(f"{directory}: no version {to}, expected one of {', '.join(map(str, existing))}")
    if version_hash(directory / str(to)) == withdrawn:
        raise UserError(f"{directory}: version {to} is the model that is served as {existing[-1]} already")
    return to


def _next_number(directory: Path) -> int:
    """One more than any number ever given, noted before it is used: killed in between, it is skipped."""
    with _state(directory) as state:
        state["last_version"] = max(state["last_version"], *versions(directory), 0) + 1
        return state["last_version"]


def _read_state(directory: Path) -> dict[str, Any]:
    path = directory / _STATE
    if not path.is_file():
        return {"last_version": 0, "rolled_back": {}}
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def _state(directory: Path) -> Iterator[dict[str, Any]]:
    state = _read_state(directory)
    yield state
    aside = directory / f"{_STATE}{_INCOMPLETE}"
    aside.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    _flush_path(aside)
    aside.replace(directory / _STATE)
    _flush_path(directory)


def _prune(directory: Path, keep: int) -> None:
    """Renamed before they are deleted: a server never sees a version with files missing."""
    for number in versions(directory)[:-keep]:
        aside = directory / f".{number}{_DELETED}"
        (directory / str(number)).rename(aside)
        shutil.rmtree(aside)


def _clear_leftovers(directory: Path) -> None:
    for suffix in (_INCOMPLETE, _DELETED):
        for leftover in directory.glob(f".*{suffix}"):
            if leftover.is_dir():
                shutil.rmtree(leftover)


def _flush(directory: Path) -> None:
    for path in sorted(directory.rglob("*")):
        _flush_path(path)
    _flush_path(directory)


def _flush_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
