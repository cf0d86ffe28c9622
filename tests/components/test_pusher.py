"""Whose refusal keeps a model from being pushed; how it is pushed is in tests/serving/test_versions.py and e2e."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tfx.types import standard_artifacts

from components import pusher
from flexunet.core.lock import locked
from flexunet.serving.signing import signed_by
from flexunet.serving.versions import Retention, push_version, roll_back, versions


def blessing(kind: Any, blessed: int) -> list[Any]:
    artifact = kind()
    artifact.set_int_custom_property("blessed", blessed)
    return [artifact]


@pytest.mark.parametrize(
    ("gate", "reason", "validator", "server"),
    [
        (0, "", 1, None),
        (1, "", 0, None),
        (1, "", 1, 0),
        # A person overrules the gate, and no other check.
        (0, "the line stands still", 0, None),
        (0, "the line stands still", 1, 0),
    ],
)
def test_a_refusal_keeps_the_model_back(
    tmp_path: Path, gate: int, reason: str, validator: int, server: int | None
) -> None:
    model, pushed = standard_artifacts.Model(), standard_artifacts.PushedModel()
    model.uri, pushed.uri = str(tmp_path / "model"), str(tmp_path / "pushed")
    (tmp_path / "model" / "Format-Serving").mkdir(parents=True)
    (tmp_path / "model" / "Format-Serving" / "saved_model.pb").write_bytes(b"a model")
    inputs: dict[str, list[Any]] = {
        "model": [model],
        "model_blessing": blessing(standard_artifacts.ModelBlessing, gate),
        "infra_blessing": blessing(standard_artifacts.InfraBlessing, validator),
    }
    if server is not None:
        inputs["server_blessing"] = blessing(standard_artifacts.InfraBlessing, server)
    properties = {"directory": str(tmp_path / "serving"), "accepted_refused": reason}
    pusher.Executor().Do(inputs, {"pushed_model": [pushed]}, properties)
    assert versions(tmp_path / "serving") == []
    assert pushed.get_int_custom_property("pushed") == 0


def test_a_push_waits_for_a_rollback_and_respects_it(tmp_path: Path) -> None:
    """A run ends with the very model that is being rolled back meanwhile: nothing brings it back."""
    serving, models = tmp_path / "serving", [tmp_path / name for name in ("first", "second")]
    for model in models:
        model.mkdir()
        (model / "saved_model.pb").write_bytes(model.name.encode())
        push_version(model, serving, {}, Retention())
    artifact, pushed = standard_artifacts.Model(), standard_artifacts.PushedModel()
    artifact.uri, pushed.uri = str(tmp_path / "model"), str(tmp_path / "pushed")
    shutil.copytree(models[1], tmp_path / "model" / "Format-Serving")
    inputs = {
        "model": [artifact],
        "model_blessing": blessing(standard_artifacts.ModelBlessing, 1),
        "infra_blessing": blessing(standard_artifacts.InfraBlessing, 1),
    }
    properties = {"directory": str(serving), "accepted_refused": ""}
    with ThreadPoolExecutor(1) as pool:
        with locked(serving):
            ended = pool.submit(pusher.Executor().Do, inputs, {"pushed_model": [pushed]}, properties)
            roll_back(serving)
            assert not ended.done()
        ended.result(timeout=60)
    assert versions(serving) == [1, 2, 3] and pushed.get_int_custom_property("pushed") == 0


def test_another_key_signs_the_same_model_anew(tmp_path: Path) -> None:
    """At the same path; the same key again pushes nothing."""
    artifact, key = standard_artifacts.Model(), tmp_path / "signing.pem"
    artifact.uri = str(tmp_path / "model")
    (tmp_path / "model" / "Format-Serving").mkdir(parents=True)
    (tmp_path / "model" / "Format-Serving" / "saved_model.pb").write_bytes(b"a model")
    inputs = {
        "model": [artifact],
        "model_blessing": blessing(standard_artifacts.ModelBlessing, 1),
        "infra_blessing": blessing(standard_artifacts.InfraBlessing, 1),
    }
    properties = {"directory": str(tmp_path / "serving"), "signing_key": str(key), "mirror": "", "settings": ""}
    properties |= {"comparable": "", "accepted_refused": ""}
    pushed: list[list[int]] = []
    for new in (True, False, True):
        if new:
            secret = ec.generate_private_key(ec.SECP256R1())
            kept = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            key.write_bytes(secret.private_bytes(*kept))
        output = standard_artifacts.PushedModel()
        output.uri = str(tmp_path / "pushed")
        pusher.Executor().Do(inputs, {"pushed_model": [output]}, properties)
        pushed.append(versions(tmp_path / "serving"))
    assert pushed == [[1], [1], [1, 2]]
    assert [signed_by(tmp_path / "serving" / name, key) for name in ("1", "2")] == [False, True]
