"""Which model a candidate is compared with."""

from typing import Any

import pytest
from tfx.types import standard_artifacts

from components.baseline import PUSHED, PUSHED_CLASSES, PUSHED_MODEL_ID, LatestPushedModel

OURS, OTHERS = "classes-a", "classes-b"


def artifact(kind: Any, artifact_id: int) -> Any:
    result = kind()
    result.id = artifact_id
    return result


def push(artifact_id: int, model_id: int, classes: str = OURS, pushed: int = 1) -> Any:
    result = artifact(standard_artifacts.PushedModel, artifact_id)
    result.set_int_custom_property(PUSHED, pushed)
    if pushed:
        result.set_int_custom_property(PUSHED_MODEL_ID, model_id)
        result.set_string_custom_property(PUSHED_CLASSES, classes)
    return result


def resolve(candidate: int, pushes: list[Any]) -> list[int]:
    inputs = {
        "candidate": [artifact(standard_artifacts.Model, candidate)],
        "model": [artifact(standard_artifacts.Model, i) for i in (1, 2, 3)],
        "pushed_model": pushes,
    }
    resolved = LatestPushedModel(classes=OURS).resolve_artifacts(None, inputs)
    return [model.id for model in resolved["model"]]


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
    ],
    ids=["none", "one", "newest", "never-itself", "before-itself", "refused", "other-classes", "order-of-pushes"],
)
def test_the_newest_pushed_model(candidate: int, pushes: list[Any], expected: list[int]) -> None:
    assert resolve(candidate, pushes) == expected
