"""What a run tells in the end; that it pushes and publishes at all is in tests/e2e."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flexunet.core.files import write_json
from flexunet.core.results.verdict import ACCEPTED
from flexunet.core.root import ReportFolder, Root
from pipeline import run


def test_a_report_tells_the_version_that_was_compared_while_others_push(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, serving = ReportFolder(tmp_path / "made"), Root(tmp_path).serving
    for folder in (source.training, source.gallery, serving / "1"):
        folder.mkdir(parents=True)
    for path in (source.details, source.data, source.model, source.diagram, source.lineage, source.serving):
        write_json(path, {})
    write_json(source.metrics, {"verdict": ACCEPTED})

    def ours_and_then_theirs(_: Path) -> str:
        (serving / "2").mkdir()
        return "ours"

    monkeypatch.setattr(run, "pushed_hash", ours_and_then_theirs)
    monkeypatch.setattr(run, "_model_hash", lambda _: "ours")
    monkeypatch.setattr(run, "write_page", lambda _: None)
    results: Any = {"Reporter": SimpleNamespace(outputs={"report": str(source.path)})}
    assert run.publish_report(results, tmp_path, "a run")["pushed_version"] == 1
