"""The image: built by buildah on a base of Debian's packages, and a node that runs in it without rights.

Needs root, and buildah, podman, runc and debootstrap from Debian; the first run builds for many minutes.
"""

import os
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kfp_cluster import Cluster, Run
from kfp_package import Package
from postgres_server import Server

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
BASE, IMAGE = "localhost/flexunet-base:test", "localhost/flexunet:test"
TOOLS = ("buildah", "podman", "runc", "debootstrap")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
# crun asks for more than this kind of machine allows, and so do podman's default limits.
PODMAN = [
    *("podman", "--runtime", "runc", "run", "--rm", "--network=host"),
    *("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"),
]
CONFINED = ["--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges"]

pytestmark = [pytest.mark.downloads, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def image() -> str:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.getuid() != 0:
        pytest.skip(f"as root: apt-get install {' '.join(TOOLS)}")
    environment = {**os.environ, **({"CERTIFICATES": str(CERTIFICATES)} if CERTIFICATES.is_file() else {})}
    if subprocess.run(["buildah", "images", BASE], capture_output=True, check=False).returncode != 0:
        subprocess.run([ROOT / "kubeflow" / "debian_base.sh", BASE], env=environment, check=True)
    subprocess.run(
        [
            *("buildah", "bud", "--isolation", "chroot", "--network", "host", "--layers"),
            *("--build-arg", f"BASE_IMAGE={BASE}", "-f", "kubeflow/Dockerfile", "-t", IMAGE, "."),
        ],
        cwd=ROOT,
        check=True,
    )
    return IMAGE


def inside(image: str, *command: str, options: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    scratch = ("--mount", "type=tmpfs,destination=/tmp")
    full = [*PODMAN, *CONFINED, *scratch, *options, image, *command]
    return subprocess.run(full, capture_output=True, text=True, check=False)


def test_the_image_runs_as_nobody_in_particular(image: str) -> None:
    done = inside(image, "sh", "-c", "id -u; id -g; touch /opt/flexunet/x /opt/venv/x /etc/x")
    assert done.stdout.split() == ["65532", "65532"]
    assert done.stderr.count("Read-only file system") == 3, done.stderr


def test_the_image_has_the_command_and_our_kubeflow_and_no_compiler(image: str) -> None:
    done = inside(image, "flexunet", "--version")
    assert done.stdout.split()[-1] == VERSION, done.stderr
    done = inside(image, "python", "-c", "import kubeflow.entry as e; e.check_identity(); print(e.__file__)")
    assert done.stdout.strip() == "/opt/flexunet/kubeflow/entry.py", done.stderr
    # Beam's boot asks so in a worker.
    assert "Name: apache-beam" in inside(image, "python", "-m", "pip", "show", "apache-beam").stdout
    done = inside(image, "sh", "-c", "ls /opt; for p in gcc cc clang ld make uv; do command -v $p; done; true")
    assert done.stdout.split() == ["flexunet", "venv"]


def test_the_image_says_what_it_is(image: str) -> None:
    template = "{{range $k, $v := .OCIv1.Config.Labels}}{{$k}}={{$v}}\n{{end}}"
    done = subprocess.run(
        ["buildah", "inspect", "--type", "image", "--format", template, image],
        capture_output=True,
        text=True,
        check=True,
    )
    labels = dict(line.split("=", 1) for line in done.stdout.splitlines() if line)
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["dev.flexunet.variant"] == "cpu"


@pytest.fixture
def writable(mount: Path) -> Iterator[Path]:
    """The volume, owned by the user of the containers, in folders that this user may enter."""
    for parent in [mount, *mount.parents]:
        if parent.stat().st_mode & 0o001 == 0:
            parent.chmod(parent.stat().st_mode | 0o001)
    subprocess.run(["chown", "-R", "65532:65532", str(mount)], check=True)
    yield mount
    subprocess.run(["chown", "-R", "0:0", str(mount)], check=True)


def test_steps_of_a_run_work_in_the_image_without_root_on_a_read_only_file_system(
    image: str, writable: Path, package: Package, database_server: Server, tmp_path: Path
) -> None:
    secrets = {"flexunet-metadata": database_server.create_database("image")}
    # Of this machine's environment nothing reaches a container.
    cluster = Cluster(package, secrets, {"flexunet-data": writable}, tmp_path, {"PATH": os.environ["PATH"]})

    def start(command: list[str], environment: dict[str, str], directory: Path, log: Path) -> Any:
        given = {key: value for key, value in environment.items() if key not in ("PATH", "TMPDIR")} | {"HOME": "/tmp"}
        variables = [option for key, value in given.items() for option in ("--env", f"{key}={value}")]
        mounts = ["--volume", f"{writable}:{writable}", "--mount", "type=tmpfs,destination=/tmp"]
        full = [*PODMAN, *CONFINED, *mounts, *variables, image, "python", *command[1:]]
        with log.open("wb") as output:
            return subprocess.Popen(full, stdout=output, stderr=subprocess.STDOUT)

    run, values = Run("image"), {"data": "records", "span": 0, "overrides": [], "accept_refused": ""}
    for task in ("prepare", "record-gen", "record-schema", "statistics-gen"):
        attempt = cluster.attempt(run, task, 0, values, start)
        assert attempt.exit_code == 0, attempt.text
    statistics = list(writable.glob("runs/main/StatisticsGen/statistics/*/Split-train/FeatureStats.pb"))
    assert statistics and {path.stat().st_uid for path in statistics} == {65532}
