"""A search through the real nodes: `study tune` up to Tuner, then `run` to a model, which takes what was found."""

import json
from pathlib import Path
from typing import Any

from command_line import flexunet
from steel import CLASSES

from flexunet.core.config.load import load_config
from flexunet.core.config.write import to_toml
from flexunet.dataset.ingest import ingest
from flexunet.history.lineage import lineage_of

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


def test_what_a_search_finds_is_trained_exported_and_reported(tmp_path: Path, write_colorful_pairs: Any) -> None:
    (tmp_path / "mine.toml").write_text(to_toml(SETTINGS))
    write_colorful_pairs(tmp_path / "source", 40)
    ingest(tmp_path / "source", tmp_path / "records", load_config(tmp_path / "mine.toml"))
    options = ("--config", "mine.toml", "--data", "records", "--root", "root", "--json")
    done = flexunet(tmp_path, "study", "tune", *options)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert [trial["values"]["train.learning_rate"] for trial in document["trials"]] == [1e-9, 0.01]
    assert document["best"] == 2 and document["trials"][1]["foreground_dice"] > 0.3
    # Nobody looked at `test`, and nothing was trained on besides.
    assert {path.name for path in (tmp_path / "root").iterdir()} & {"Trainer", "Evaluator", "report"} == set()
    tuned = load_config(tmp_path / "root" / "tuned.toml")
    assert tuned.train.learning_rate == 0.01 and not tuned.tune.space.by_key()
    assert tuned.model == load_config(tmp_path / "mine.toml").model

    run = flexunet(tmp_path, "run", *options)
    assert run.exit_code == 0, run.output
    report = tmp_path / "root" / "report"
    assert json.loads((report / "tuning.json").read_text()) == document
    page = (report / "index.html").read_text()
    assert "Search for settings" in page and "train.learning_rate" in page
    version = tmp_path / "root" / "serving_model" / "1"
    exported = json.loads((version / "assets.extra" / "config.json").read_text())
    assert exported["train"]["learning_rate"] == 0.01
    lineage = lineage_of(version)
    assert lineage.config["train"]["learning_rate"] == 0.01 and "Tuner" in lineage.code
