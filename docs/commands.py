"""Finds the commands in the pages; `make docs` prints how many of them no test runs.

A block fenced as `sh` holds commands. An HTML comment right before it, beginning with `not run:`, gives the reason why
the tests do not run it; `# exit code N` at the end of a line says how it ends.

python -m docs.commands
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
# In this order, in one folder.
PAGES: Final = ("docs/tutorial.md", "README.md", "docs/how-to/week.md")
_FENCE: Final = re.compile(r"^(?P<indent> *)```(?P<language>\w*)(?P<rest>[^\n]*)\n(?P<text>.*?)^ *```", re.M | re.S)
_MARK: Final = re.compile(r"<!-- not run: (?P<reason>[^>]+?) -->\s*\Z")
_TITLE: Final = re.compile(r'title="([^"]+)"')
_EXIT_CODE: Final = re.compile(r"# exit code (\d+)")


@dataclass(frozen=True)
class Block:
    """A fenced block. `not_run` is the reason, "" where there is none; `title` the file that it shows, or ""."""

    page: str
    language: str
    title: str
    text: str
    not_run: str


@dataclass(frozen=True)
class Command:
    """One command line, without its comment, and the exit code that the page promises."""

    page: str
    text: str
    exit_code: int
    not_run: str


def main() -> None:
    """Prints the marks and their number."""
    marks = [(block.page, block.not_run) for page in PAGES for block in blocks(page) if block.not_run]
    for page, reason in marks:
        print(f"{page}: not run: {reason}")
    print(f"{len(marks)} `not run:` marks in {' and '.join(PAGES)}")


def blocks(page: str) -> Iterator[Block]:
    """All fenced blocks of a page, a path below the repository."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        mark = _MARK.search(text[: found.start()])
        title = _TITLE.search(found["rest"])
        yield Block(page, found["language"], title[1] if title else "", found["text"], mark["reason"] if mark else "")


def commands(page: str) -> Iterator[Command]:
    """The commands of the blocks of a page that are fenced as `sh`."""
    for block in blocks(page):
        yield from commands_of(block)


def commands_of(block: Block) -> Iterator[Command]:
    """The commands of a block, lines joined where they end in a backslash; none if it is not fenced as `sh`."""
    for line in block.text.replace("\\\n", " ").splitlines() if block.language == "sh" else ():
        text, _, _ = line.partition("    #")
        code = _EXIT_CODE.search(line)
        if text.strip():
            yield Command(block.page, " ".join(text.split()), int(code[1]) if code else 0, block.not_run)


def pages() -> list[str]:
    """Every page of the repository that is written by hand or by docs/generate.py."""
    folders = (ROOT, ROOT / "docs", ROOT / "flexunet", ROOT / "kubeflow")
    found = [path for folder in folders for path in folder.glob("*.md" if folder == ROOT else "**/*.md")]
    return sorted(str(path.relative_to(ROOT)) for path in found)


if __name__ == "__main__":
    main()
