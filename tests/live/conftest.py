"""An export whose answers follow from the colours, as a version that was pushed, and a server of it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flexunet.serving.server import Server

SIZE = 32


@pytest.fixture(scope="session")
def pushed(make_config: Any, color_reader: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`serving_model/3` in the folder of a run."""
    from flexunet.core.config.section import part_of
    from flexunet.core.config.train import TrainerConfig
    from trainer_module.export import export_model

    directory = tmp_path_factory.mktemp("root") / "serving_model" / "3"
    export_model(color_reader(SIZE), part_of(make_config(), TrainerConfig), {"parameters": 16}, directory)
    return directory


@pytest.fixture
def root(pushed: Path, tmp_path: Path) -> Path:
    """A run's folder of one's own with that version."""
    shutil.copytree(pushed.parent, tmp_path / "root" / "serving_model")
    return tmp_path / "root"


@pytest.fixture(scope="session")
def server(pushed: Path) -> Iterator[Server]:
    with Server(pushed, grpc_port=0, rest_port=0) as running:
        yield running
