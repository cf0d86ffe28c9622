"""What `flexunet run` says of records before anything trains: warnings, and classes that are others."""

import json
from pathlib import Path
from typing import Any

import pytest
from steel import CLASSES, COLORS

from flexunet.core.config.load import config_from
from flexunet.core.config.whole import Config
from flexunet.core.errors import UserError
from flexunet.dataset.compatible import check_data
from flexunet.dataset.ingest import ingest
from flexunet.dataset.synthetic import write_surfaces


def config(classes: list[Any] = CLASSES, **image: Any) -> Config:
    return config_from({"classes": classes, "image": {"height": 64, "width": 64, **image}}, "test")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`dataset.json` of 20 surfaces, ingested for a model of 64x64."""
    folder = tmp_path_factory.mktemp("data")
    write_surfaces(folder / "photos", 20, 48, COLORS, seed=5)
    summary = ingest(folder / "photos", folder / "records", config(), check_only=True).manifest
    entry = {"span": 1, "version": 1, "fingerprint": "", **summary}
    (folder / "span-1/version-1").mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({**entry, "spans": [entry]}))
    return folder


def test_records_that_fit_need_no_word(data: Path) -> None:
    assert check_data(data, config()) == ""


def test_a_missing_file_of_an_encoders_weights_is_told_before_anything_runs(data: Path, tmp_path: Path) -> None:
    begun = config()
    file = tmp_path / "efficientnetv2-b0_notop.h5"
    train = begun.train.model_copy(update={"encoder_weights": str(file)})
    begun = begun.model_copy(update={"train": train})
    with pytest.raises(UserError, match=f"^train.encoder_weights: {file}: No such file or directory, expected a file"):
        check_data(data, begun)
    assert check_data(data, begun, training=False) == ""
    file.write_bytes(b"weights")
    assert check_data(data, begun) == ""


@pytest.mark.parametrize("other", [{"height": 32}, {"fit": "pad"}])
def test_another_size_than_that_of_ingest_is_told(data: Path, other: dict[str, Any]) -> None:
    """Which defects vanish was counted at ingest; nothing vanishes anew where a model is only measured."""
    warning = check_data(data, config(**other))
    assert warning.startswith(f"{data}: defects that vanish at the model's size were counted for 64x64 (stretch), not")
    assert check_data(data, config(**other), training=False) == ""


def test_other_classes_are_refused(data: Path) -> None:
    words = r"has the classes background \[0, 0, 0\], .*; expected those of the config, background .*, or ingest again"
    with pytest.raises(UserError, match=words):
        check_data(data, config([CLASSES[0], *reversed(CLASSES[1:])]))
