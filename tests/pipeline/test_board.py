"""What is seen of a run, on a terminal and without one."""

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from pipeline.cli.board import Board


def console(live: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=live, color_system=None, width=100, markup=False)


def start(node: str, *waiting: str, last_seconds: float | None = None) -> Any:
    return SimpleNamespace(node=node, waiting=waiting, last_seconds=last_seconds)


def result(node: str, cached: bool = False) -> Any:
    return SimpleNamespace(node=node, cached=cached, seconds=1.25)


def printed(on: Console) -> str:
    return on.file.getvalue()  # pyright: ignore


def test_without_a_terminal_each_node_that_ended_is_a_line():
    on = console(live=False)
    with Board(on) as board:
        for node, cached in (("RecordGen", True), ("Trainer", False)):
            board.started(start(node, "Evaluator"))
            board.ended(result(node, cached))
    assert printed(on).splitlines() == ["RecordGen         cached     1.2 s", "Trainer           done       1.2 s"]


@pytest.mark.parametrize(("error", "word"), [(ValueError, "FAILED"), (KeyboardInterrupt, "stopped")])
def test_the_node_that_did_not_end_is_named(error: type[BaseException], word: str):
    on = console(live=False)
    with pytest.raises(error), Board(on) as board:
        board.started(start("Trainer"))
        raise error
    assert printed(on).split()[:2] == ["Trainer", word]


def test_a_terminal_shows_what_runs_what_waits_and_the_time_left():
    on = console(live=True)
    with Board(on) as board:
        board.started(start("Trainer", "Evaluator", "Pusher", last_seconds=60.0))
        on.print(board)
        shown = printed(on)
        board.ended(result("Trainer"))
    assert "Trainer           running" in shown and "s left" in shown
    assert "Evaluator         waiting" in shown and "Pusher            waiting" in shown
    assert "Trainer           done       1.2 s" in printed(on)
