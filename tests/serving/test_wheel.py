"""The wheel beside a project whose own packages have our names: the client's commands work, the others say why not."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = ("pipeline", "components", "transform_module", "trainer_module", "kubeflow")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built offline, from a copy: setuptools leaves a folder `build` behind and takes up what it finds there."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for package in ("flexunet", *OURS):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    run(sys.executable, "-c", build, folder / "dist", cwd=folder)
    [built] = (folder / "dist").iterdir()
    return built


class Installed:
    """A virtual environment with the wheel; the distributions that it asks for are linked from this environment."""

    def __init__(self, folder: Path, wheel: Path, extras: set[str]) -> None:
        run(sys.executable, "-m", "venv", folder)
        self.python, self._flexunet = folder / "bin" / "python", folder / "bin" / "flexunet"
        run(self.python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel)
        [site] = folder.glob("lib/python*/site-packages")
        for found in asked_for([(Requirement(line), "") for line in required(extras)]):
            for file in found.files or []:
                if ".." not in file.parts:
                    link = site / file
                    link.parent.mkdir(parents=True, exist_ok=True)
                    if not link.exists():
                        link.symlink_to(file.locate())

    def flexunet(self, cwd: Path, *arguments: Any) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [self._flexunet, *map(str, arguments)], cwd=cwd, env=environment(cwd), capture_output=True, text=True
        )


def required(extras: set[str]) -> list[str]:
    return PROJECT["dependencies"] + [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]


def asked_for(wanted: list[tuple[Requirement, str]]) -> Iterator[Distribution]:
    """The requirements, and what they require themselves, each once."""
    seen: set[tuple[str, str]] = set()
    while wanted:
        requirement, extra = wanted.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for key in {"", *requirement.extras}:
            if (requirement.name, key) not in seen:
                seen.add((requirement.name, key))
                found = distribution(requirement.name)
                yield found
                wanted += [(Requirement(line), key) for line in found.requires or []]


def environment(project: Path) -> dict[str, str]:
    """As in a project whose own folders are on the path."""
    return {**os.environ, "PYTHONPATH": str(project), "TF_CPP_MIN_LOG_LEVEL": "2"}


def run(*command: Any, cwd: Path | None = None) -> str:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Installed:
    """The base install."""
    return Installed(tmp_path_factory.mktemp("client"), wheel, set())


@pytest.fixture(scope="module")
def with_data(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Installed:
    """With the extra `data`."""
    return Installed(tmp_path_factory.mktemp("with_data"), wheel, {"data"})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Somebody's project, with packages of our names, and a picture."""
    for package in (*OURS, "dataset", "serving", "reporting"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(f"WHOSE = 'theirs: {package}'\n")
    return tmp_path


@pytest.fixture(scope="module")
def served(with_data: Installed, color_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of `flexunet serve`, from the wheel: it needs TensorFlow's library, which comes with the extra."""
    folder = tmp_path_factory.mktemp("serve")
    command = [with_data.python, "-m", "flexunet", "serve", color_export.parent, "--grpc-port=0", "--rest-port=0"]
    with subprocess.Popen(list(map(str, command)), cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().split()[0]
        server.terminate()


def test_the_wheel_holds_the_library_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"flexunet", f"flexunet-{PROJECT['version']}.dist-info"}
    parts = ("py.typed", "core/config/presets/demo.toml", "reporting/templates/base.css", "serving/client.py")
    assert {f"flexunet/{part}" for part in parts} <= set(names)


def test_help_names_what_is_here_and_what_is_not(client: Installed, project: Path) -> None:
    done = client.flexunet(project, "--help")
    assert done.returncode == 0, done.stderr
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert {"ingest", "predict", "serve", "doctor"} <= set(listed)
    assert not {"run", "demo", "clean", "kubeflow"} & set(listed)
    assert "In a checkout of the project, or in its image, also: demo, plan, run" in " ".join(done.stdout.split())
    assert "  flexunet ingest photos" in done.stdout and "  flexunet run" not in done.stdout


@pytest.mark.parametrize("command", ["run --config demo --data d --root r", "demo", "rollback --help", "kubeflow"])
def test_commands_of_a_checkout_say_so_in_one_line(client: Installed, project: Path, command: str) -> None:
    done = client.flexunet(project, *command.split())
    [line] = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert line.startswith(f"error: flexunet {command.split()[0]} ") and "checkout of the project or its image" in line


def test_doctor_calls_a_client_healthy(client: Installed, project: Path) -> None:
    done = client.flexunet(project, "doctor", "--json")
    assert done.returncode == 0, done.stderr
    found = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert found["client"]["found"] == "all there" and all(finding["good"] for finding in found.values())
    assert advised(found["ingest, and models in folders"]["repair"]) == set(PROJECT["optional-dependencies"]["data"])
    assert "tfx" not in found


def test_a_part_that_is_missing_is_named_with_the_command_that_installs_it(
    client: Installed, project: Path, color_export: Path
) -> None:
    (project / "photos").mkdir()
    (project / "a.png").write_bytes(b"")
    expected = set(PROJECT["optional-dependencies"]["data"])
    for command in (
        "ingest photos records --config demo",
        f"predict {color_export.parent} a.png --out masks",
        f"serve {color_export.parent} --grpc-port 0 --rest-port 0",
    ):
        done = client.flexunet(project, *command.split())
        [line] = done.stderr.splitlines()
        assert (done.returncode, done.stdout) == (1, "") and "is not installed" in line
        assert advised(line) == expected
    assert not (project / "masks").exists() and not (project / "records").exists()


def advised(line: str) -> set[str]:
    """What a `pip install` at the end of a line installs, as pyproject.toml writes it."""
    words = [Requirement(word) for word in shlex.split(line.partition("pip install ")[2])]
    declared = {Requirement(line): line for line in required({"data"})}
    return {declared[word] for word in words}


def test_a_script_has_both_its_own_packages_and_the_client(
    client: Installed, project: Path, served: str, good_image: Any
) -> None:
    (project / "a.png").write_bytes(good_image[0])
    script = f"""
import pathlib, sys
import components, dataset, kubeflow, pipeline
from flexunet.serving.client import connect, predict_images
assert pipeline.WHOSE == "theirs: pipeline" and dataset.WHOSE == "theirs: dataset"
with connect({served!r}) as model:
    [answer] = predict_images(model, [pathlib.Path("a.png").read_bytes()])
print(answer.valid, answer.class_ids.sum(), "tensorflow" in sys.modules)
"""
    (project / "script.py").write_text(script)
    assert run(client.python, "script.py", cwd=project).split() == ["True", str(good_image[1].sum()), "False"]


def test_predict_asks_a_server(client: Installed, project: Path, served: str, good_image: Any) -> None:
    (project / "a.png").write_bytes(good_image[0])
    done = client.flexunet(project, "predict", served, "a.png", "--out", "masks", "--config", "demo")
    assert done.returncode == 0, done.stderr
    assert Image.open(project / "masks" / "a_mask.png").size == good_image[1].shape[::-1]


def test_the_extra_has_all_of_ingest_and_of_models_in_folders(
    with_data: Installed, project: Path, write_colorful_pairs: Any, color_export: Path
) -> None:
    write_colorful_pairs(project / "photos", 12)
    done = with_data.flexunet(project, "ingest", "photos", "records", "--config", "demo")
    assert done.returncode == 0, done.stderr
    assert (project / "records" / "dataset.html").is_file()
    done = with_data.flexunet(project, "predict", color_export.parent, "photos/images/000.png", "--out", "masks")
    assert done.returncode == 0, done.stderr
    found = json.loads(with_data.flexunet(project, "doctor", "--json").stdout)
    assert [f["found"] for f in found if f["what"].startswith("ingest")] == ["all there"]
