"""A fingerprint changes with the code that a node runs, and with nothing else; in a copy of the packages."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.fingerprint import PACKAGES, code_fingerprint, needed_modules

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
        ("transform_module/unfit.py", {TRAINER}),
        ("transform_module/__init__.py", {PREPROCESSING, TRAINER, REPORT}),
        ("transform_module/pipelines.py", {TRAINER, REPORT}),
        ("flexunet/core/postponed.py", {PREPROCESSING, TRAINER, METRICS, REPORT}),
        ("flexunet/__init__.py", {PREPROCESSING, TRAINER, METRICS, REPORT}),
        ("flexunet/core/config/__init__.py", {PREPROCESSING, TRAINER, METRICS, REPORT}),
        ("flexunet/core/config/data.py", {PREPROCESSING, TRAINER, METRICS, REPORT}),
        ("flexunet/core/config/train.py", {TRAINER, REPORT}),
        ("flexunet/core/config/gate.py", {METRICS, REPORT}),
        ("flexunet/core/config/kubeflow.py", {REPORT}),
        ("flexunet/core/config/whole.py", set()),
        ("flexunet/core/scores.py", {TRAINER, METRICS, REPORT}),
        ("flexunet/core/results/metrics.py", {REPORT}),
        ("flexunet/core/results/serving.py", {REPORT}),
        ("flexunet/core/results/dataset.py", set()),
        ("components/segmentation_metrics.py", {METRICS, REPORT}),
        ("flexunet/reporting/report.py", {REPORT}),
        ("flexunet/reporting/templates/report.js", {REPORT}),
        ("flexunet/reporting/templates/base.css", {REPORT}),
        ("flexunet/cli/console.py", set()),
        ("flexunet/dataset/groups.py", set()),
    ],
)
def test_what_an_edit_changes(copy: Path, before: dict[str, str], edited: str, changed: set[str]):
    assert changed_by(copy, before, edited, lambda source: source + "EDITED = True\n") == changed


def changed_by(copy: Path, before: dict[str, str], edited: str, edit: Callable[[str], str]) -> set[str]:
    source = (copy / edited).read_text()
    try:
        assert edit(source) != source
        (copy / edited).write_text(edit(source))
        after = fingerprints(copy)
    finally:
        (copy / edited).write_text(source)
    return {module for module in after if after[module] != before[module]}


@pytest.mark.parametrize(
    ("edited", "edit"),
    [
        ("trainer_module/model.py", lambda source: "# A comment.\n" + source),
        ("trainer_module/model.py", lambda source: source.replace('"""', '"""Other words. ', 1)),
        ("trainer_module/losses.py", lambda source: source.replace("    ", "    # indented\n    ", 1)),
        (
            "flexunet/core/config/train.py",
            lambda source: re.sub(r'description="[^"]*"', 'description="!"', source),
        ),
        ("flexunet/core/results/metrics.py", lambda source: source.replace("the headline", "the first number")),
    ],
    ids=["comment", "docstring", "inside", "description", "field"],
)
def test_words_change_nothing(copy: Path, before: dict[str, str], edited: str, edit: Callable[[str], str]):
    assert changed_by(copy, before, edited, edit) == set()


def test_what_an_ancestor_imports_counts(copy: Path, before: dict[str, str]):
    """An `__init__.py` runs at every import below it, and so does what it imports."""
    extra = copy / "flexunet" / "extra.py"
    try:
        extra.write_text("VALUE = 1\n")
        source = (copy / "flexunet" / "__init__.py").read_text()
        (copy / "flexunet" / "__init__.py").write_text("from flexunet import extra\n")
        first = fingerprints(copy)
        extra.write_text("VALUE = 2\n")
        second = fingerprints(copy)
    finally:
        (copy / "flexunet" / "__init__.py").write_text(source)
        extra.unlink()
    assert all(len({before[module], first[module], second[module]}) == 3 for module in before)


# What a node must not be keyed by: whatever changes there would run it again for nothing.
CONFIGS = "flexunet.core.config"
ELSEWHERE = ("pipeline", "kubeflow", "flexunet.cli", f"{CONFIGS}.whole", f"{CONFIGS}.load")
# The report alone shows them.
ENGINES = (f"{CONFIGS}.beam", f"{CONFIGS}.kubeflow")
MUST_NOT_CONTAIN = {
    "components.record_gen": (
        "flexunet.core.config",
        "flexunet.core.results",
        "flexunet.serving",
        "trainer_module",
        "transform_module",
    ),
    PREPROCESSING: (
        f"{CONFIGS}.train",
        f"{CONFIGS}.gate",
        f"{CONFIGS}.serving",
        "flexunet.serving",
        "components",
        "transform_module.unfit",
    ),
    TRAINER: (
        "flexunet.core.results",
        f"{CONFIGS}.gate",
        f"{CONFIGS}.serving",
        f"{CONFIGS}.dataset",
        "flexunet.serving.c_api",
        "flexunet.serving.versions",
        "flexunet.reporting",
        "flexunet.dataset",
        "flexunet.history",
        "components",
    ),
    METRICS: (
        f"{CONFIGS}.operating",
        f"{CONFIGS}.train",
        f"{CONFIGS}.serving",
        "flexunet.core.results",
        "flexunet.serving",
        "flexunet.reporting",
        "trainer_module",
    ),
    "components.serving_validator": (f"{CONFIGS}.train", f"{CONFIGS}.gate", "flexunet.history", "trainer_module"),
    "components.pusher": (f"{CONFIGS}.train", f"{CONFIGS}.serving", "flexunet.reporting", "trainer_module"),
    REPORT: ("flexunet.dataset", "flexunet.serving.server"),
}


@pytest.mark.parametrize("module", MUST_NOT_CONTAIN)
def test_what_a_node_is_not_keyed_by(module: str):
    needed = needed_modules([module])
    forbidden = (*ELSEWHERE, *(() if module == REPORT else ENGINES), *MUST_NOT_CONTAIN[module])
    assert not [found for found in needed for name in forbidden if found == name or found.startswith(f"{name}.")]


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
    done = subprocess.run([sys.executable, "-c", script, TRAINER], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("module", ["nope", "trainer_module.nope", "trainer_module.model.build_model", ""])
def test_an_unknown_module_raises(module: str):
    with pytest.raises(Exception, match=module or "not present"):
        code_fingerprint([module])
