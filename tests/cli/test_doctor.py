"""What `flexunet doctor` looks at, and how it tells what to do; tests/serving/test_wheel.py runs it in a wheel."""

from pathlib import Path

import pytest
from command_line import flexunet
from processes import ROOT

from flexunet.cli import doctor
from flexunet.cli.doctor import Finding
from flexunet.core import install

SETUP = f"run `make setup` in {ROOT}"


def found() -> dict[str, Finding]:
    """By the light checks; what imports TFX or TensorFlow is run by the tutorial's test."""
    light = [check for words, check in doctor.checks() if words.startswith("looking")]
    return {finding.what: finding for check in light for finding in check()}


def test_the_words_beside_the_spinner_say_what_takes_long() -> None:
    assert "importing TFX, 10 to 20 seconds" in [words for words, _ in doctor.checks()]


def test_a_wheel_is_not_asked_for_tfx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "LIBRARY", ROOT / "site-packages" / "flexunet")
    assert all(words.startswith("looking") for words, _ in doctor.checks())
    assert "tfx" not in found() and all(finding.good for finding in found().values())


@pytest.mark.parametrize(("version", "words"), [("1.0", f"tested is 1.21.0; {SETUP}"), (None, SETUP)])
def test_a_checkout_is_told_what_was_tested(monkeypatch: pytest.MonkeyPatch, version: str | None, words: str) -> None:
    real = install.installed_version
    monkeypatch.setattr(doctor, "installed_version", lambda name: version if name == "tfx" else real(name))
    finding = found()["tfx"]
    assert (finding.found, finding.good) == (version or "not installed", False)
    assert finding.repair.startswith(words)


def test_a_command_is_printed_whole_and_one_repair_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = " ".join(["pip install", *["name==1.2.3"] * 40])
    findings = [
        Finding("GPU", "none", True, command),
        Finding("tfx", "not installed", False, "make setup"),
        Finding("keras", "not installed", False, "make setup"),
    ]
    monkeypatch.setattr(doctor, "checks", lambda: [("looking", lambda: iter(findings))])
    done = flexunet(tmp_path, "doctor")
    assert done.exit_code == 1 and f"GPU: {command}" in done.stdout.splitlines()
    assert done.stderr == "error: tfx, keras: not installed: make setup\n"
