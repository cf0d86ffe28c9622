"""Finds the files below a folder, in one way for every command: what is not read is counted, with the reason."""

import os
import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from unicodedata import normalize

from flexunet.core.errors import UserError
from flexunet.core.readable import IMAGE_SUFFIXES

# The table that `flexunet predict` writes, by which its folder is known.
AREAS_FILE: Final = "areas.csv"
AREAS_COLUMNS: Final = ("image", "class", "pixels", "share", "regions", "boxes")

# Beside names with a leading dot: what network disks, Windows and a Mac's archiver put beside a user's files, and what
# was deleted there.
_HIDDEN_FOLDERS: Final = frozenset(
    {
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@tmp"),
        *("$recycle.bin", "system volume information", "lost+found", "__macosx"),
    }
)
_PREDICTED: Final = re.compile(r".*_(mask|overlay)\.png")
_RECORDED: Final = re.compile(r"dataset\.(json|html)|span-\d+")
_RUN_MARK: Final = "metadata.db"
_SHOWN: Final = 6


@dataclass(frozen=True)
class LeftOut:
    """Files that were not read for one reason.

    Attributes:
      why: the rule, in words that follow a number of files: "hidden", "with the suffix .txt".
      files: how many.
      example: the first of them, relative to the folder that was searched.
    """

    why: str
    files: int
    example: str


class Tally:
    """Counts files that are left out, by reason, in the order in which the reasons came up."""

    def __init__(self, counted: Iterable[LeftOut] = ()) -> None:
        self._counted = {entry.why: entry for entry in counted}

    def add(self, why: str, name: str, files: int = 1) -> None:
        """Counts `files` more, of which `name` is one."""
        if files:
            known = self._counted.get(why, LeftOut(why, 0, name))
            self._counted[why] = LeftOut(why, known.files + files, known.example)

    def counted(self) -> tuple[LeftOut, ...]:
        """One entry for each reason."""
        return tuple(self._counted.values())


@dataclass(frozen=True)
class Files:
    """The files below a folder.

    Attributes:
      root: the folder.
      names: paths below `root` with `/` between folders, as the disk has them, in the order of their NFC forms.
      left_out: the files below `root` that are not among `names`.
    """

    root: Path
    names: tuple[str, ...]
    left_out: tuple[LeftOut, ...] = ()

    def with_suffix(self, suffixes: Iterable[str]) -> list[str]:
        """The names that end in one of `suffixes`, given in lower case with their dot; letters match in any case."""
        wanted = frozenset(suffixes)
        return [name for name in self.names if suffix_of(name) in wanted]

    def account(self, read: Iterable[str], reasons: dict[str, str] | None = None) -> tuple[LeftOut, ...]:
        """What was left out once a reader took `read` of the names.

        Args:
          read: the names that were read.
          reasons: why others were not, by name; those without one are counted by suffix.
        """
        tally, taken, known = Tally(self.left_out), frozenset(read), reasons or {}
        for name in self.names:
            if name not in taken:
                tally.add(known.get(name) or _by_suffix(name), name)
        return tally.counted()


def find_files(root: Path, output: Path | None = None) -> Files:
    """Every file below `root` that may be a user's.

    Hidden files and folders are left out (a leading dot, `@eaDir`, `#recycle`, `__MACOSX` and the like), as is what
    `flexunet` wrote itself: predictions, records, runs. Links are followed, but a folder is entered once, at its own
    place before a link's.

    Args:
      root: the folder.
      output: where the command is about to write; below `root` it is left out, as one.

    Raises:
      UserError: a folder cannot be listed.
    """
    walk = _Walk(root, output.resolve() if output else None)
    walk.run()
    return Files(root, tuple(sorted(walk.names, key=lambda name: (nfc(name), name))), walk.tally.counted())


def holds_predictions(folder: Path) -> bool:
    """Whether `flexunet predict` wrote there."""
    return _starts_with(folder / AREAS_FILE, ",".join(AREAS_COLUMNS))


def nfc(name: str) -> str:
    """A name as it is compared: a Mac writes ü as two characters, others as one."""
    return normalize("NFC", name)


def stem_and_suffix(name: str) -> tuple[str, str]:
    """`a/b` and `.PNG` of `a/b.PNG`; no suffix where pathlib finds none, as in `a/.b` and `a/b.`."""
    folders, slash, file = name.rpartition("/")
    stem, _, ending = file.rpartition(".")
    return (f"{folders}{slash}{stem}", f".{ending}") if stem and ending else (name, "")


def suffix_of(name: str) -> str:
    """`.png` of `a/b.PNG`; empty where there is none."""
    return stem_and_suffix(name)[1].lower()


def left_out_words(left_out: Sequence[LeftOut], read: int) -> str:
    """One line: how many files were left out of how many, and why; empty where none was.

    Args:
      left_out: one entry for each reason.
      read: how many files were read.
    """
    if not left_out:
        return ""
    count = sum(entry.files for entry in left_out)
    ordered = sorted(left_out, key=lambda entry: -entry.files)
    kinds = [f"{entry.files} {entry.why} (such as {entry.example})" for entry in ordered[:_SHOWN]]
    rest = sum(entry.files for entry in ordered[_SHOWN:])
    kinds += [f"{rest} for {len(ordered) - _SHOWN} other reasons"] if rest else []
    return f"left out {count} of {count + read} files: {', '.join(kinds)}"


def _by_suffix(name: str) -> str:
    suffix = suffix_of(name)
    if suffix in IMAGE_SUFFIXES:
        return "images that do not belong to this layout"
    return f"with the suffix {suffix}" if suffix else "without a suffix"


@dataclass
class _Walk:
    """One search; `names` and `tally` are its result."""

    root: Path
    output: Path | None
    names: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    _entered: set[tuple[int, int]] = field(default_factory=set)
    _links: deque[str] = field(default_factory=deque)

    def run(self) -> None:
        self._descend("")
        while self._links:
            self._descend(self._links.popleft())

    def _descend(self, start: str) -> None:
        folders = [start]
        while folders:
            folder = folders.pop()
            if self._enter(folder):
                folders += sorted(self._list(folder), reverse=True)

    def _enter(self, folder: str) -> bool:
        """Whether this folder is to be read: not this command's output, and not one that was read already."""
        path = self.root / folder
        if folder and path.resolve() == self.output:
            self.tally.add("output folder of this command", folder)
            return False
        status = path.stat()
        if (status.st_dev, status.st_ino) in self._entered:
            self.tally.add("link to a folder that is read already", folder)
            return False
        self._entered.add((status.st_dev, status.st_ino))
        return True

    def _list(self, folder: str) -> list[str]:
        """Takes the files of one folder; returns the folders in it."""
        try:
            with os.scandir(self.root / folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(
                f"{error.filename}: cannot be listed ({error.strerror}), expected a readable folder: "
                "correct its permissions"
            ) from None
        own = _own_output(self.root / folder, [entry.name for entry in entries], folder == "")
        inner = []
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            # A link may lead in a circle, which `Path` takes for nothing and an entry for an error.
            status = self.root / name if entry.is_symlink() else entry
            is_folder = status.is_dir()
            why = next((why for why, pattern in own if pattern.fullmatch(entry.name)), None)
            why = why or _hidden(entry.name, is_folder)
            if is_folder and why is not None:
                self._leave_folder(why, name, entry.is_symlink())
            elif is_folder and entry.is_symlink():
                self._links.append(name)
            elif is_folder:
                inner.append(name)
            elif why is None and status.is_file():
                self.names.append(name)
            else:
                self.tally.add(why or "no regular file (a broken link, a pipe)", name)
        return inner

    def _leave_folder(self, why: str, name: str, is_link: bool) -> None:
        if is_link:
            self.tally.add(why, name)
            return
        files = [f"{folder}/{file}" for folder, _, found in os.walk(self.root / name) for file in found]
        if files:
            self.tally.add(why, Path(min(files)).relative_to(self.root).as_posix(), len(files))


def _hidden(name: str, is_folder: bool) -> str | None:
    if name.startswith(".") or name.casefold() in _HIDDEN_FOLDERS:
        return "in hidden folders" if is_folder else "hidden"
    return None


def _own_output(folder: Path, names: Sequence[str], at_root: bool) -> list[tuple[str, re.Pattern[str]]]:
    """Which names of a folder `flexunet` wrote, and by which command."""
    own = []
    if AREAS_FILE in names and holds_predictions(folder):
        own.append(("written by `flexunet predict`", re.compile(f"{_PREDICTED.pattern}|{re.escape(AREAS_FILE)}")))
    if "dataset.json" in names and any(re.fullmatch(r"span-\d+", name) for name in names):
        own.append(("written by `flexunet ingest`", _RECORDED))
    if _RUN_MARK in names and not at_root:
        own.append(("in the folder of a run", re.compile(r".*")))
    return own


def _starts_with(file: Path, text: str) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(text)) == text.encode()
    except OSError:
        return False
