"""The components in a pipeline that is not ours: the how-to's own code, run by TFX's own runner."""

import importlib
import json
from pathlib import Path

import pytest
from tfx import v1 as tfx

from docs.commands import blocks
from flexunet.serving.versions import roll_back, versions

PAGE = "docs/how-to/own-pipeline.md"


def export(folder: Path, mark: str | None) -> Path:
    (folder / "Format-Serving").mkdir(parents=True)
    if mark:
        (folder / "Format-Serving" / "saved_model.pb").write_text(mark)
    return folder


def test_the_pusher_in_a_pipeline_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = [block.text for block in blocks(PAGE) if block.title == "own_pipeline.py"]
    (tmp_path / "own_pipeline.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    own, root = importlib.import_module("own_pipeline"), tmp_path / "root"
    root.mkdir()

    def run(model: Path) -> list[int]:
        tfx.orchestration.LocalDagRunner().run(own.create(root, model))
        return versions(root / "serving_model")

    first, second = export(tmp_path / "first", "a"), export(tmp_path / "second", "b")
    assert run(first) == [1] and run(first) == [1] and run(second) == [1, 2]
    provenance = json.loads((root / "serving_model" / "2" / "assets.extra" / "provenance.json").read_text())
    assert provenance["model_uri"] == str(second) and "scores" not in provenance
    # Refused by the gate of that pipeline.
    assert run(export(tmp_path / "none", None)) == [1, 2]
    roll_back(root / "serving_model")
    # The same model from another place: what was rolled back is not pushed again.
    assert run(export(tmp_path / "again", "b")) == [1, 2, 3]
    assert (root / "serving_model" / "3" / "saved_model.pb").read_text() == "a"
