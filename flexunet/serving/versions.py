"""The folder that TF Serving polls: numeric versions that appear by one rename, go by one, and never come twice.

A version is written aside under a name that is no number, flushed to disk and renamed, so that a server sees all of it
or nothing, whenever the writer is killed. `.pushes.json` beside the versions remembers what a folder cannot tell: the
highest number ever given, which a server may still hold in memory after its folder is gone, the models that were rolled
back, a rollback that was not finished, and how many versions stay and which store mirrors them, by the last push.

Who pushes or rolls back holds the folder's lock meanwhile: `flexunet.core.lock.locked(directory)`.
"""

import datetime
import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict

from flexunet.core.disk import naming
from flexunet.core.errors import UserError
from flexunet.core.features import ASSETS_EXTRA, EXPORTED_GRAPH, EXPORTED_PROVENANCE, PUSHED_FILES
from flexunet.core.files import read_json
from flexunet.core.results.lineage import Provenance
from flexunet.core.root import Root
from flexunet.serving.model_config import CONFIG_FILE, Named, read_named

# Seconds: a push waits so long for a rollback, and a rollback for a push; either copies a model, to a store as well.
LONGEST_ROLLBACK: Final = 300.0
_STATE: Final = ".pushes.json"
_INCOMPLETE: Final = ".incomplete"
_DELETED: Final = ".deleted"


@dataclass(frozen=True)
class Rollback:
    """What a rollback did: `withdrawn` was the newest version, `restored` is served again as `version`."""

    withdrawn: int
    restored: int
    version: Path


@dataclass(frozen=True)
class Retention:
    """How many of the newest versions stay, None for all, and the URL of the store that mirrors them, or ""."""

    versions: int | None = None
    mirror: str = ""


class State(TypedDict):
    """`.pushes.json`."""

    last_version: int
    """the highest number ever given"""
    rolled_back: dict[str, int]
    """by `content_hash`, the version that the model was"""
    unfinished: list[int] | None
    """the versions withdrawn and restored by a rollback that was not finished"""
    keep: int | None
    mirror: str


def versions(directory: Path) -> list[int]:
    """The versions that TF Serving sees in `directory`, ascending."""
    if not directory.is_dir():
        return []
    return sorted(int(child.name) for child in directory.iterdir() if child.name.isdigit())


def served_version(directory: Path) -> Path | None:
    """The version that everybody is answered by, if there is one: the stable one that `models.config` names, or the
    newest.
    """
    named = read_named(directory)
    return directory / str(named.stable) if named else newest_version(directory)


def newest_version(directory: Path) -> Path | None:
    """The version that was pushed last, if there is one; TF Serving serves it where no file names others."""
    return next((directory / str(number) for number in reversed(versions(directory))), None)


def model_directory(directory: Path) -> Path:
    """The SavedModel itself: `directory`, or the version of it that is served.

    Raises:
      UserError: neither holds a SavedModel.
    """
    if (directory / EXPORTED_GRAPH).is_file():
        return directory
    served = served_version(directory)
    if served is None:
        what = "no model here, expected a SavedModel, such as DIR/serving_model/1 of a run"
        raise UserError(f"{directory}: {what}{_where_instead(directory)}")
    return served


def _where_instead(directory: Path) -> str:
    """What a person may have meant who named a folder without a model."""
    if directory == Root(directory.parent).serving and Root(directory.parent).metadata.is_file():
        return f"; no run has pushed one: `flexunet runs --root {shlex.quote(str(directory.parent))}` tells why"
    if Root(directory).metadata.is_file():
        return f": name {Root(directory).serving}"
    if re.fullmatch(r"[\w.-]+:\d+", str(directory)) and not directory.exists():
        return f"; of a server its URL, such as grpc://{directory}"
    return ""


def push_version(
    model: Path,
    directory: Path,
    provenance: Provenance,
    retention: Retention,
    above: int = 0,
    again: bool = False,
    complete: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Copies `model` to a new version of `directory`, the highest number ever, and keeps the newest few.

    Args:
      model: a SavedModel's folder.
      directory: the folder of the versions.
      provenance: what `provenance.json` says of the version's origin; `sha256`, where it is given, is the model's
        `content_hash`.
      retention: remembered for rollbacks.
      above: numbers up to this one were given elsewhere, by another folder that the same store mirrors.
      again: pushes also what the newest version already holds; else that changes nothing.
      complete: adds `PUSHED_FILES` to the version's folder before anybody sees it.

    Returns:
      The version's folder.

    Raises:
      UserError: `models.config` is not what this project writes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    read_named(directory)  # a broken one is refused before anything is visible
    with _state(directory) as state:
        state["keep"], state["mirror"], state["unfinished"] = retention.versions, retention.mirror, None
    newest, digest = newest_version(directory), provenance.get("sha256") or content_hash(model)
    if not again and newest and pushed_hash(newest) == digest:
        return newest

    def finish(folder: Path) -> None:
        _remove_added(folder)
        complete(folder)

    return _push(model, directory, {**provenance, "sha256": digest}, retention.versions, above, finish)


def roll_back(directory: Path, to: int | None = None, keep: int | None = None, above: int = 0) -> Rollback:
    """Pushes an earlier version's model again under a new number, and marks the newest one's as rolled back.

    Whatever kills it or what the caller does next, the same call again does the rest and no more, until
    `finish_rollback` or another push.

    Args:
      directory: the folder of the versions.
      to: the version to restore; by default the newest that holds another model, one not rolled back itself.
      keep: how many versions stay; by default as many as at the last push.
      above: as for `push_version`.

    Raises:
      UserError: no such version, none to go back to, or not the newest is served.
    """
    existing, named = versions(directory), read_named(directory)
    if not existing:
        raise UserError(f"{directory}: no version here, expected the folder that a run pushed to")
    withdrawn, restored = _unfinished(directory, to) or _planned(directory, existing, named, to)
    if existing[-1] > withdrawn:
        return Rollback(withdrawn, restored, directory / str(existing[-1]))
    source, gone = directory / str(restored), version_hash(directory / str(withdrawn))
    digest = version_hash(source)
    if not _is_whole(source):
        raise UserError(
            f"{source}: damaged, its files are not those that were pushed; expected a whole version: "
            "name another with --to"
        )
    with _state(directory) as state:
        others = {k: v for k, v in state["rolled_back"].items() if k != digest}
        state["rolled_back"], state["unfinished"] = others | {gone: withdrawn}, [withdrawn, restored]
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    origin: Provenance = {**read_provenance(source), "restored": restored, "withdrawn": withdrawn, "restored_at": now}
    origin["sha256"] = digest
    return Rollback(withdrawn, restored, _push(source, directory, origin, keep or state["keep"], above))


def finish_rollback(directory: Path) -> None:
    """After whatever else belongs to a rollback was done; the next call of `roll_back` is another one."""
    with _state(directory) as state:
        state["unfinished"] = None


def withdraw(directory: Path, version: int) -> None:
    """Marks a version's model as rolled back, though it may never have been served to all; the caller has the lock."""
    digest = version_hash(directory / str(version))
    with _state(directory) as state:
        state["rolled_back"] = state["rolled_back"] | {digest: version}


def last_retention(directory: Path) -> Retention:
    """What the last push was told to keep."""
    state = _read_state(directory)
    return Retention(state["keep"], state["mirror"])


def rolled_back(directory: Path) -> dict[str, int]:
    """`content_hash` of each model that was rolled back, and the version that it was."""
    return _read_state(directory)["rolled_back"]


def content_hash(model: Path) -> str:
    """sha256 over the names and bytes of a SavedModel's files: ids and paths begin anew with a new database.

    What the pusher adds is left out, so that a version has the hash of the model it was made from.
    """
    added = [Path(ASSETS_EXTRA) / name for name in PUSHED_FILES]
    digest = hashlib.sha256()
    for path in sorted(p for p in model.rglob("*") if p.is_file()):
        name = path.relative_to(model)
        if name not in added:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()


def pushed_hash(version: Path) -> str | None:
    """`content_hash` of the model that a version was made from; None for a version that somebody else made."""
    return read_provenance(version).get("sha256")


def version_hash(version: Path) -> str:
    """The hash of `pushed_hash`, computed where it is not noted."""
    return pushed_hash(version) or content_hash(version)


def restored_at(version: Path) -> datetime.datetime | None:
    """Time when a rollback made this version of an earlier one; None for one that a run pushed."""
    moment = read_provenance(version).get("restored_at")
    return datetime.datetime.fromisoformat(moment) if moment else None


def read_provenance(version: Path) -> Provenance:
    """What the pusher wrote of a version's origin; nothing for a version that somebody else made."""
    path = version / ASSETS_EXTRA / EXPORTED_PROVENANCE
    return read_json(path) or {}


def _push(
    model: Path,
    directory: Path,
    provenance: Provenance,
    keep: int | None,
    above: int,
    finish: Callable[[Path], None] = lambda folder: None,
) -> Path:
    _clear_leftovers(directory)
    target = directory / str(_next_number(directory, above))
    aside = directory / f".{target.name}{_INCOMPLETE}"
    try:
        with naming(target):
            shutil.copytree(model, aside)
            extra = aside / ASSETS_EXTRA
            extra.mkdir(exist_ok=True)
            finish(aside)
            words = json.dumps({**provenance, "version": int(target.name)}, indent=2)
            (extra / EXPORTED_PROVENANCE).write_text(words + "\n", encoding="utf-8")
            _flush(aside)
            aside.rename(target)
    except (OSError, UserError):
        shutil.rmtree(aside, ignore_errors=True)
        raise
    _flush_path(directory)
    _prune(directory, keep)
    return target


def _remove_added(folder: Path) -> None:
    """A model that was a version has what was added by that push."""
    for name in PUSHED_FILES:
        (folder / ASSETS_EXTRA / name).unlink(missing_ok=True)


def _unfinished(directory: Path, to: int | None) -> tuple[int, int] | None:
    """The versions withdrawn and restored by a rollback that was killed, unless another one is asked for."""
    unfinished = _read_state(directory)["unfinished"]
    return (unfinished[0], unfinished[1]) if unfinished and to in (None, unfinished[1]) else None


def _is_whole(version: Path) -> bool:
    """Whether it has a graph, and the files that were pushed, where they were noted."""
    noted = pushed_hash(version)
    return (version / EXPORTED_GRAPH).is_file() and noted in (None, content_hash(version))


def _planned(directory: Path, existing: list[int], named: Named | None, to: int | None) -> tuple[int, int]:
    newest = existing[-1]
    if named and named.stable != newest:
        raise UserError(
            f"{directory}: everybody is answered by version {named.stable}, which {CONFIG_FILE} calls stable, expected "
            f"the newest, {newest}: `flexunet live canary ROOT --version N`, then `flexunet live promote ROOT` serve "
            "another one; `flexunet live rollback ROOT` gives up a canary"
        )
    withdrawn = version_hash(directory / str(newest))
    if to is None:
        return newest, _earlier(directory, existing, withdrawn)
    return newest, _named(directory, existing, withdrawn, to)


def _earlier(directory: Path, existing: list[int], withdrawn: str) -> int:
    gone = {*rolled_back(directory), withdrawn}
    others = [number for number in existing[:-1] if _is_whole(directory / str(number))]
    choices = [number for number in others if version_hash(directory / str(number)) not in gone]
    if not choices:
        earlier = ", ".join(map(str, existing[:-1]))
        raise UserError(
            f"{directory}: no version before {existing[-1]} holds another model that was not rolled back"
            + (f"; name one with --to: {earlier}" if earlier else ": it is the only one")
        )
    return choices[-1]


def _named(directory: Path, existing: list[int], withdrawn: str, to: int) -> int:
    if to not in existing:
        raise UserError(f"{directory}: no version {to}, expected one of {', '.join(map(str, existing))}")
    if version_hash(directory / str(to)) == withdrawn:
        raise UserError(f"{directory}: version {to} is the model that is served as {existing[-1]} already")
    return to


def _next_number(directory: Path, above: int) -> int:
    """One more than any number ever given, noted before it is used: killed in between, it is skipped."""
    with _state(directory) as state:
        state["last_version"] = max(state["last_version"], *versions(directory), above) + 1
        return state["last_version"]


def _read_state(directory: Path) -> State:
    state: State = {"last_version": 0, "rolled_back": {}, "unfinished": None, "keep": None, "mirror": ""}
    found: State | None = read_json(directory / _STATE)
    return {**state, **found} if found else state


@contextmanager
def _state(directory: Path) -> Iterator[State]:
    state = _read_state(directory)
    yield state
    aside = directory / f"{_STATE}{_INCOMPLETE}"
    with naming(directory / _STATE):
        aside.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        _flush_path(aside)
        aside.replace(directory / _STATE)
    _flush_path(directory)


def _prune(directory: Path, keep: int | None) -> None:
    """Renamed before they are deleted: a server never sees a version with files missing. What is named stays."""
    named = read_named(directory)
    served = named.versions if named else []
    for number in (number for number in versions(directory)[: -keep if keep else 0] if number not in served):
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
