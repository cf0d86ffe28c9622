"""Which model a candidate is compared with."""

from pathlib import Path
from typing import Any

import pytest
from tfx.types import standard_artifacts

from components.baseline import LatestPushedModel
from flexunet.history.pushes import PUSHED, PUSHED_COMPARABLE, PUSHED_MODEL_ID, RESTORED_MILLISECONDS, ROLLED_BACK

OURS, OTHERS = "classes-a", "classes-b"


def artifact(kind: Any, artifact_id: int) -> Any:
    result = kind()
    result.id = artifact_id
    return result


def push(
    artifact_id: int, model_id: int, classes: str = OURS, pushed: int = 1, rolled_back: int = 0, restored: int = 0
) -> Any:
    result = artifact(standard_artifacts.PushedModel, artifact_id)
    # Milliseconds.
    result.mlmd_artifact.create_time_since_epoch = 1000 * artifact_id
    if restored:
        result.set_int_custom_property(RESTORED_MILLISECONDS, restored)
    result.set_int_custom_property(PUSHED, pushed)
    result.set_int_custom_property(ROLLED_BACK, rolled_back)
    if pushed:
        result.set_int_custom_property(PUSHED_MODEL_ID, model_id)
        result.set_string_custom_property(PUSHED_COMPARABLE, classes)
    return result


def model(folder: Path, model_id: int) -> Any:
    result = artifact(standard_artifacts.Model, model_id)
    result.uri = str(folder / str(model_id))
    return result


def resolve(folder: Path, candidate: int, pushes: list[Any], gone: int | None = None) -> list[int]:
    for model_id in {1, 2, 3} - {gone}:
        (folder / str(model_id)).mkdir()
    inputs = {
        "candidate": [model(folder, candidate)],
        "model": [model(folder, i) for i in (1, 2, 3)],
        "pushed_model": pushes,
    }
    resolved = LatestPushedModel(comparable=OURS).resolve_artifacts(None, inputs)
    return [chosen.id for chosen in resolved["model"]]


@pytest.mark.parametrize(
    ("candidate", "pushes", "expected"),
    [
        (1, [], []),
        (2, [push(10, 1)], [1]),
        (3, [push(11, 2), push(10, 1)], [2]),
        (1, [push(10, 1)], []),
        (2, [push(10, 1), push(11, 2)], [1]),
        (3, [push(10, 1), push(11, 2, pushed=0)], [1]),
        (3, [push(10, 1), push(11, 2, classes=OTHERS)], [1]),
        (3, [push(10, 2), push(11, 1)], [1]),
        (3, [push(10, 1), push(11, 2, rolled_back=1)], [1]),
        (3, [push(10, 1, rolled_back=1)], []),
        (3, [push(10, 1, restored=12_000), push(11, 2)], [1]),
        (3, [push(10, 1, restored=12_000), push(13, 2)], [2]),
    ],
    ids=[
        *("none", "one", "newest", "never-itself", "before-itself", "refused", "not-comparable", "order-of-pushes"),
        *("rolled-back", "all-rolled-back", "restored-by-a-rollback", "restored-before-the-newest"),
    ],
)
def test_the_newest_pushed_model(tmp_path: Path, candidate: int, pushes: list[Any], expected: list[int]) -> None:
    assert resolve(tmp_path, candidate, pushes) == expected


def test_a_model_whose_folder_is_gone_is_passed_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert resolve(tmp_path, 3, [push(10, 1), push(11, 2)], gone=2) == [1]
    assert "is gone" in caplog.text
