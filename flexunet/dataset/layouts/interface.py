"""What a layout is: a reader looks at the files of a source, and gives its pairs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flexunet.core.finder import Files, LeftOut
from flexunet.core.problems import Problem
from flexunet.dataset.pairs import Pair


@dataclass(frozen=True)
class Source:
    """A source as a reader gets it.

    Attributes:
      files: every file below it that may be the user's.
      no_mask_is_background: whether images that nothing tells a class of are free of defects.
    """

    files: Files
    no_mask_is_background: bool = False

    @property
    def root(self) -> Path:
        """The folder."""
        return self.files.root


@dataclass(frozen=True)
class Layout:
    """What lies in a source.

    Attributes:
      name: as `--layout` takes it; empty where none was recognised.
      description: in words.
      pairs: sorted by id.
      problems: files that cannot be used.
      files_read: how many files below the source belong to it.
      left_out: the files that do not, counted by reason.
      notes: what else the user should know, a sentence each.
      told: classes whose colour or id in masks a list beside them tells, by the list's name.
    """

    name: str
    description: str
    pairs: Sequence[Pair]
    problems: Sequence[Problem]
    files_read: int = 0
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    told: Mapping[str, Sequence["SourceClass"]] = field(default_factory=dict)

    @property
    def has_splits(self) -> bool:
        """Whether the source has splits of its own."""
        return any(pair.split is not None for pair in self.pairs)


@dataclass
class Reading:
    """What a reader gathers.

    Attributes:
      pairs: in any order.
      problems: files that cannot be used.
      read: names of the files that belong to the layout, those of problems included.
      reasons: why others do not, by name.
      notes: a sentence each.
    """

    pairs: list[Pair] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    read: set[str] = field(default_factory=set)
    reasons: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SourceClass:
    """A class as a source tells it; no colour, and no id in its masks, where it tells none."""

    name: str
    color: tuple[int, int, int] | None = None
    class_id: int | None = None


@dataclass(frozen=True)
class Reader:
    """A layout that can be read.

    Attributes:
      name: as `--layout` takes it.
      summary: what it looks like, in a few words.
      signs: says what of it was seen, in words; empty if this is another layout. Reads little.
      read: gathers the pairs.
      classes: those that the source names, the background where it does; None where only masks tell them.
      stronger_than: layouts that the same files would fit too, but say less.
    """

    name: str
    summary: str
    signs: Callable[[Source], str]
    read: Callable[[Source], Reading]
    classes: Callable[[Source], Sequence[SourceClass] | None] = lambda source: None
    stronger_than: Iterable[str] = ()
