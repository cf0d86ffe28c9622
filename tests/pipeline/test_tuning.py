"""A search through the real nodes: `study tune` up to Tuner, then `run` to a model, which takes what was found."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command_line import flexunet
from rich.console import Console
from steel import CLASSES

from flexunet.core.config.load import load_config
from flexunet.core.config.write import to_toml
from flexunet.dataset.ingest import ingest
from flexunet.history.lineage import lineage_of
from pipeline.cli.study import _print_trials

SETTINGS = {
    "classes": CLASSES,
    "dataset": {"train": 0.6, "eval": 0.2, "test": 0.2},
    "image": {"height": 32, "width": 32},
    "model": {"num_layers": 2, "base_filters": 8, "base_kernel": 3, "dropout": 0.0, "normalization": "batch"},
    "train": {"epochs": 6, "batch_size": 4, "learning_rate": 1e-9, "schedule": "constant", "preview_images": 0},
    "gate": {"min_foreground_dice": 0.3},
    # Two trials: nothing is learnt with the first.
    "tune": {"seconds": 600.0, "space": {"train": {"learning_rate": [1e-9, 0.01]}}},
}


@dataclass(frozen=True)
class Search:
    """A folder in which `study tune` was typed, with which options, and what it found."""

    folder: Path
    options: tuple[str, ...]
    document: dict[str, Any]


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory, write_colorful_pairs: Any) -> Search:
    folder = tmp_path_factory.mktemp("search")
    (folder / "mine.toml").write_text(to_toml(SETTINGS))
    write_colorful_pairs(folder / "source", 40)
    ingest(folder / "source", folder / "records", load_config(folder / "mine.toml"))
    options = ("--config", "mine.toml", "--data", "records", "--root", "root", "--json")
    done = flexunet(folder, "study", "tune", *options)
    assert done.exit_code == 0, done.output
    return Search(folder, options, json.loads(done.stdout))


def test_a_search_is_a_node_that_is_steered_by_eval_and_writes_the_best(search: Search) -> None:
    trials = search.document["trials"]
    assert [trial["values"]["train.learning_rate"] for trial in trials] == [1e-9, 0.01]
    assert search.document["best"] == 2 and trials[1]["foreground_dice"] > 0.3
    # Nobody looked at `test`, and nothing was trained besides.
    root = search.folder / "root"
    assert {path.name for path in root.iterdir()} & {"Trainer", "Evaluator", "report"} == set()
    tuned, mine = (load_config(path) for path in (root / "tuned.toml", search.folder / "mine.toml"))
    assert tuned.train.learning_rate == 0.01 and not tuned.tune.space.by_key()
    assert (tuned.model, tuned.dataset, tuned.gate) == (mine.model, mine.dataset, mine.gate)


def test_what_a_search_found_is_trained_exported_and_reported(search: Search) -> None:
    run = flexunet(search.folder, "run", *search.options)
    assert run.exit_code == 0, run.output
    report = search.folder / "root" / "report"
    # The same, from the cache.
    assert json.loads((report / "tuning.json").read_text()) == search.document
    page = (report / "index.html").read_text()
    assert "Search for settings" in page and "train.learning_rate" in page
    version = search.folder / "root" / "serving_model" / "1"
    exported = json.loads((version / "assets.extra" / "config.json").read_text())
    assert exported["train"]["learning_rate"] == 0.01
    lineage = lineage_of(version)
    assert lineage.config["train"]["learning_rate"] == 0.01 and "Tuner" in lineage.code


def test_trials_that_failed_are_counted_below_the_table() -> None:
    def trial(number: int, dice: float | None, problem: str | None) -> Any:
        row = {"trial": number, "values": {"train.loss": "focal"}, "foreground_dice": dice, "problem": problem}
        return {**row, "epochs": 2, "seconds": 3.0}

    trials = [trial(1, None, "ValueError: training diverged"), trial(2, 0.5, None), trial(3, None, "out of memory")]
    console = Console(width=120, record=True, file=io.StringIO())
    _print_trials({"format": 1, "budget_seconds": 60.0, "trials": trials, "best": 2}, console)
    printed = console.export_text()
    assert "3 trials, 2 of which failed, in 9 of 60 s\n" in printed
    assert "ValueError: training diverged" in printed and "out of memory" in printed
