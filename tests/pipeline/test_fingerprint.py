"""A fingerprint changes with the code that a node runs, and with nothing else; in a copy of the packages."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.fingerprint import PACKAGES, code_fingerprint

ROOT = Path(__file__).resolve().parents[2]
PREPROCESSING = "transform_module.preprocessing"
TRAINER = "trainer_module.trainer"
METRICS = "components.segmentation_metrics"
REPORT = "components.reporter"
SCRIPT = """
import json, sys
from pipeline import fingerprint
prints = {module: fingerprint.code_fingerprint([module]) for module in sys.argv[1:]}
print(json.dumps({"file": fingerprint.__file__, "prints": prints}))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def before(copy: Path) -> dict[str, str]:
    return fingerprints(copy)


def fingerprints(folder: Path) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-B", "-c", SCRIPT, PREPROCESSING, TRAINER, METRICS, REPORT],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["file"] == str(folder / "pipeline" / "fingerprint.py")
    return found["prints"]


@pytest.mark.parametrize(
    ("edited", "changed"),
    [
        ("trainer_module/model.py", {TRAINER, REPORT}),
        ("trainer_module/trainer.py", {TRAINER}),
        ("trainer_module/__init__.py", {TRAINER, REPORT}),
        ("transform_module/images.py", {PREPROCESSING, TRAINER}),
        ("transform_module/__init__.py", {PREPROCESSING, TRAINER}),
        ("transform_module/preprocessing.py", {PREPROCESSING, TRAINER}),
        ("flexunet/core/config/", {PREPROCESSING, TRAINER, METRICS, REPORT}),
        ("flexunet/core/features.py", {PREPROCESSING, TRAINER, METRICS, REPORT}),
        ("flexunet/core/scores.py", {TRAINER, METRICS, REPORT}),
        ("components/segmentation_metrics.py", {METRICS, REPORT}),
        ("flexunet/reporting/report.py", {REPORT}),
        ("flexunet/reporting/templates/report.js", {REPORT}),
        ("flexunet/reporting/templates/base.css", {REPORT}),
        ("flexunet/cli/main.py", set()),
        ("flexunet/dataset/groups.py", set()),
    ],
)
def test_what_an_edit_changes(copy: Path, before: dict[str, str], edited: str, changed: set[str]):
    source = (copy / edited).read_bytes()
    try:
        (copy / edited).write_bytes(source + b"EDITED = True\n")
        after = fingerprints(copy)
    finally:
        (copy / edited).write_bytes(source)
    assert {module for module in after if after[module] != before[module]} == changed


def test_depends_on_the_code_and_not_on_its_place(copy: Path, before: dict[str, str], tmp_path: Path):
    shutil.copytree(copy, tmp_path / "elsewhere")
    assert fingerprints(tmp_path / "elsewhere") == before
    assert len(set(before.values())) == 4 and all(len(value) == 64 for value in before.values())


def test_of_several_modules():
    both = code_fingerprint([METRICS, PREPROCESSING])
    assert both == code_fingerprint([PREPROCESSING, METRICS])
    assert both not in {code_fingerprint([METRICS]), code_fingerprint([PREPROCESSING])}
    # The trainer imports all of preprocessing: naming both is naming the trainer.
    assert code_fingerprint([TRAINER, PREPROCESSING]) == code_fingerprint([TRAINER])


def test_imports_nothing_heavy():
    script = f"{SCRIPT}print([name for name in ('tensorflow', 'tfx', 'apache_beam') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script, TRAINER], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("module", ["nope", "trainer_module.nope", "trainer_module.model.build_model", ""])
def test_an_unknown_module_raises(module: str):
    with pytest.raises(Exception, match=module or "not present"):
        code_fingerprint([module])
