"""Every container of a package as a process of its own, as a cluster starts them; test_run.py forks most of them."""

import json
from pathlib import Path

import pytest
from kfp_cluster import Cluster
from kfp_package import read_package
from postgres_server import Server
from processes import python

# Seventeen processes import TFX.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


def test_every_container_starts_as_a_process_of_its_own(
    settings_file: Path, database_server: Server, mount: Path, tmp_path: Path, image_environment: dict[str, str]
) -> None:
    command = ["--config", settings_file, "--image", "registry.example/flexunet:1", "--output", tmp_path / "p.yaml"]
    python("-m", "flexunet.cli.main", "kubeflow", "compile", *command, "--set", "kubeflow.root=runs/processes")
    secrets = {"flexunet-metadata": database_server.create_database("processes")}
    package, volumes = read_package(tmp_path / "p.yaml"), {"flexunet-data": mount}
    run = Cluster(package, secrets, volumes, tmp_path / "pods", image_environment).run()
    assert run.failed == [], run.log(run.failed[0])
    assert set(run.attempts) == set(package.tasks)
    assert "accepted; the model is version 1" in run.log("verdict")
    metrics = json.loads((mount / "runs" / "processes" / "report" / "metrics.json").read_text())
    assert metrics["run_id"] == run.run_id and metrics["blessed"]
