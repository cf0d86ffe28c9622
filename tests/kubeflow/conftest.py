"""A package compiled by the command, a cluster that runs it, a database; what several files share."""

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import flexunet
from kfp_cluster import Cluster
from kfp_package import Package, read_package
from postgres_server import Server, postgres
from processes import ROOT
from small_run import EPOCHS, SETTINGS

from flexunet.cli.console import LOGGER_NAME
from flexunet.dataset.ingest import ingest


@pytest.fixture(scope="session")
def write_toml(make_config: Any) -> Callable[[Path, str], Path]:
    """Writes a configuration as a user would: the classes of all tests, then the text given."""

    def write(path: Path, text: str) -> Path:
        lines = []
        for segmentation_class in make_config().classes:
            lines += ["[[classes]]", f'name = "{segmentation_class.name}"', f"color = {list(segmentation_class.color)}"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + text)
        return path

    return write


@pytest.fixture(scope="session")
def image_environment() -> dict[str, str]:
    """What kubeflow/Dockerfile sets; the programs are those of this environment."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": "0",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


@pytest.fixture(scope="session")
def database_server() -> Iterator[Server]:
    with postgres() as server:
        yield server


@pytest.fixture(scope="session")
def mount(tmp_path_factory: pytest.TempPathFactory, make_config: Any, write_colorful_pairs: Any) -> Path:
    """The volume, with records on it."""
    folder = tmp_path_factory.mktemp("volume")
    write_colorful_pairs(folder / "photos", 60)
    ingest(folder / "photos", folder / "records", make_config())
    return folder


@pytest.fixture(scope="session")
def settings_file(tmp_path_factory: pytest.TempPathFactory, mount: Path, write_toml: Any) -> Path:
    """The configuration of the package, in a folder that is not the project's."""
    text = SETTINGS.format(mount=mount, epochs=EPOCHS)
    return write_toml(tmp_path_factory.mktemp("package") / "mine.toml", text)


@pytest.fixture(scope="session")
def package_file(settings_file: Path) -> Path:
    """Compiled by the command line, beside its configuration."""
    command = ["--config", settings_file.name, "--image", "registry.example/flexunet:1", "--output", "package.yaml"]
    done = flexunet(settings_file.parent, "kubeflow", "compile", *command)
    assert done.exit_code == 0, done.stderr
    assert "14 nodes, prepare and verdict" in done.stdout
    return settings_file.with_name("package.yaml")


@pytest.fixture(scope="session")
def package(package_file: Path) -> Package:
    return read_package(package_file)


@pytest.fixture(scope="session")
def cluster(
    package: Package,
    database_server: Server,
    mount: Path,
    tmp_path_factory: pytest.TempPathFactory,
    image_environment: dict[str, str],
) -> Cluster:
    secrets = {"flexunet-metadata": database_server.create_database("metadata")}
    return Cluster(package, secrets, {"flexunet-data": mount}, tmp_path_factory.mktemp("pods"), image_environment)


@pytest.fixture(autouse=True)
def _own_log_handlers() -> Iterator[None]:
    """A container logs to its stderr for as long as it lives; here it would write to that of another test."""
    logger = logging.getLogger(LOGGER_NAME)
    before = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers, logger.level, logger.propagate = before
