"""A new version tried by a share of the requests: begun, promoted to all, or given up; the caller holds the lock.

Every step writes `models.config` beside the versions (flexunet/serving/model_config.py), which the servers read.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from flexunet.core.errors import UserError
from flexunet.serving.model_config import CONFIG_FILE, Named, read_named, write_named
from flexunet.serving.versions import rolled_back, version_hash, versions, withdraw

# Our manifests have TF Serving poll every 10 s; the rest is for loading.
SETTLED_SECONDS: Final = 30.0


class GivenUp(NamedTuple):
    """How a canary ended; `rolled_back`: whether its model was, which the stable version's own never is."""

    named: Named
    canary: int
    rolled_back: bool


def begin(
    directory: Path, candidate: int | None, base_path: str | None, check: Callable[[Path], None] = lambda folder: None
) -> Named:
    """Names the version that is served; where one is named already, names a newer one as the canary.

    Where there is a canary, and no other is asked for, nothing changes.

    Args:
      directory: of the versions.
      candidate: its number; by default that of the canary there is, else the newest.
      base_path: of the folder on the server; by default as it was named, or that of this machine.
      check: raises UserError for a version's folder that must not be served.

    Raises:
      UserError: no such version, another canary is being tried, the model was rolled back, or the servers may not have
        read yet what was named before.
    """
    named = read_named(directory)
    number = _candidate(directory, named, candidate)
    if named is None:
        found = Named(base_path or str(directory.resolve()), number)
    else:
        is_new = number != named.stable
        found = Named(base_path or named.base_path, named.stable, number if is_new else None)
    for each in found.versions:
        check(directory / str(each))
    if named and found.canary not in (None, named.canary):
        _require_read(directory)
    # When it was written tells what servers may not have read yet, and from when a lack of answers counts.
    if found != named:
        write_named(directory, found)
    return found


def _candidate(directory: Path, named: Named | None, asked: int | None) -> int:
    """The number of the version to serve or to try; raises UserError as `begin`."""
    existing = versions(directory)
    if not existing:
        raise UserError(f"{directory}: no version here, expected the folder that a run pushed to")
    number = asked or (named.canary if named and named.canary else existing[-1])
    if number not in existing:
        raise UserError(f"{directory}: no version {number}, expected one of {', '.join(map(str, existing))}")
    if named and named.canary not in (None, number):
        raise UserError(
            f"{directory}: version {named.canary} is the canary already, expected none: end it with "
            "`flexunet live promote` or `flexunet live rollback`"
        )
    if version_hash(directory / str(number)) in rolled_back(directory):
        raise UserError(
            f"{directory}: version {number} was rolled back; `flexunet rollback --to {number}` brings it back under a "
            "new number: name that"
        )
    return number


def _require_read(directory: Path) -> None:
    """Servers poll the file, and refuse to move a label to a version that they did not load: at every poll, for ever.

    Raises:
      UserError: the file was written a moment ago.
    """
    # Of either sign: the clocks of a volume's machine and of this one differ.
    if abs(time.time() - named_since(directory)) < SETTLED_SECONDS:
        raise UserError(
            f"{directory / CONFIG_FILE}: written less than {SETTLED_SECONDS:.0f} s ago, expected that every server has "
            "read it and loaded what it names: wait, then the same command again"
        )


def named_since(directory: Path) -> float:
    """When `models.config` was written last, in seconds since 1970; 0 without it."""
    path = directory / CONFIG_FILE
    return path.stat().st_mtime if path.is_file() else 0.0


def promote(directory: Path) -> Named:
    """Makes the canary the stable version.

    Raises:
      UserError: there is none, or the servers may not have loaded it yet.
    """
    named, canary = _tried(directory)
    if canary not in versions(directory):
        raise UserError(f"{directory}: version {canary}, the canary, is no longer there: give it up by `live rollback`")
    _require_read(directory)
    found = Named(named.base_path, canary)
    write_named(directory, found)
    return found


def give_up(directory: Path) -> GivenUp:
    """Serves the stable version alone again, and marks the canary's model as rolled back, unless the stable version is
    the same model, pushed again with a signature.

    Raises:
      UserError: there is no canary.
    """
    named, canary = _tried(directory)
    found = Named(named.base_path, named.stable)
    write_named(directory, found)
    digests = [version_hash(directory / str(number)) for number in (named.stable, canary)]
    withdrawn = canary in versions(directory) and digests[0] != digests[1]
    if withdrawn:
        withdraw(directory, canary)
    return GivenUp(found, canary, withdrawn)


def _tried(directory: Path) -> tuple[Named, int]:
    named = read_named(directory)
    if named is None or named.canary is None:
        raise UserError(f"{directory}: no canary, expected one that `flexunet live canary` named")
    return named, named.canary
