"""What must not be freed; `flexunet clean` on real runs is in tests/e2e/test_pipeline.py."""

import datetime
from pathlib import Path
from typing import Any

from flexunet.history.cleaning import plan_cleaning
from flexunet.history.store import Artifact, Execution, History, Run
from flexunet.serving.versions import Retention, push_version

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def artifact(number: int, kind: str, uri: Path) -> Artifact:
    return Artifact(number, kind, str(uri), True, number, {})


def execution(number: int, node: str, state: str, inputs: Any = None, outputs: Any = None) -> Execution:
    return Execution(number, node, state, NOW, NOW, {}, inputs or {}, outputs or {})


def finished_run(root: Path) -> Run:
    report = artifact(9, "Report", root / "Reporter" / "report" / "9")
    return Run("second", {"Reporter": execution(9, "Reporter", "COMPLETE", outputs={"report": [report]})})


def test_the_model_of_a_version_whose_push_failed_after_it_was_there_stays(tmp_path: Path, monkeypatch: Any) -> None:
    """Such as one whose copy to a store was broken off: TF Serving serves it, and no PushedModel tells of it."""
    folder = tmp_path / "Trainer" / "model" / "1"
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_text("served")
    push_version(folder, tmp_path / "serving_model", {"model_uri": str(folder)}, Retention())
    model = artifact(1, "Model", folder)
    trainer = execution(1, "Trainer", "COMPLETE", outputs={"model": [model]})
    pusher = execution(2, "Pusher", "FAILED", inputs={"model": [model]})
    first, second = Run("first", {"Trainer": trainer, "Pusher": pusher}), finished_run(tmp_path)
    makers = {1: trainer, 9: second.nodes["Reporter"]}
    history = History([second, first], {1: model}, makers, {1: first, 2: first, 9: second})
    monkeypatch.setattr("flexunet.history.cleaning.read_history", lambda root: history)
    assert plan_cleaning(tmp_path, keep=1).freed == []
    # Without the version nothing needs the model.
    (tmp_path / "serving_model" / "1" / "assets.extra" / "provenance.json").unlink()
    assert [part.path for part in plan_cleaning(tmp_path, keep=1).freed] == [folder]
