"""A real Flink 1.20 with the configuration of the manifests: it takes every key, and its memory adds up.

Its jars are in a wheel of PyPI, 230 MB; it needs Java. No job is sent to it: Beam's job server is on no registry that
these tests reach.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from go_programs import CACHE
from ports import free_port
from processes import ROOT
from waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.downloads, pytest.mark.timeout(1800)]

MANIFESTS = ROOT / "kubeflow" / "cluster" / "flink"
JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
# What the scripts of Flink ask before they start either.
UTILITIES = "org.apache.flink.runtime.util.bash.BashJavaUtils"
RESULT = "BASH_JAVA_UTILS_EXEC_RESULT:"
GIBIBYTE = 2**30


def container(name: str) -> dict[str, Any]:
    documents = yaml.safe_load_all((MANIFESTS / f"{name}.yaml").read_text())
    [pod] = [d["spec"]["template"]["spec"] for d in documents if d["kind"] == "Deployment"]
    return pod["containers"][0]


def jars() -> Path:
    """Flink's jars, of the version of the manifests; fetched once."""
    if shutil.which("java") is None:
        pytest.skip("needs Java: on Debian, apt-get install openjdk-17-jre-headless")
    version = container("jobmanager")["image"].partition(":")[2].partition("-")[0]
    folder = CACHE / f"flink-{version}"
    if not folder.is_dir():
        aside = CACHE / f".flink-{version}.incomplete"
        shutil.rmtree(aside, ignore_errors=True)
        fetch = ["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(aside)]
        subprocess.run([sys.executable, *fetch, f"apache-flink-libraries=={version}"], check=True)
        [archive] = aside.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            wanted = [m for m in packed if m.isfile() and Path(m.name).parent.name in ("lib", "bin")]
            packed.extractall(aside, wanted, filter="data")
        archive.unlink()
        aside.rename(folder)
    return folder


@dataclass(frozen=True)
class Flink:
    """Jars, the manifests' configuration but for its names, and where the job manager answers."""

    classes: str
    folder: Path
    port: int

    def java(self, main: str, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
        logging = f"-Dlog4j.configurationFile={self.folder / 'log4j-console.properties'}"
        return ["java", *options, logging, "-cp", self.classes, main, *arguments]

    def ask(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}") as answer:
            return json.load(answer)

    def asked(self, path: str, seen: Callable[[Any], bool]) -> bool:
        try:
            return seen(self.ask(path))
        except OSError:
            return False


@pytest.fixture(scope="module")
def flink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flink]:
    folder = tmp_path_factory.mktemp("flink")
    found = sorted(jars().rglob("*.jar"))
    # The utilities bring a copy of what logs.
    classes = [str(jar) for jar in found if jar.name.startswith(("flink-dist", "log4j", "bash-java"))]
    [configuration] = yaml.safe_load_all((MANIFESTS / "configuration.yaml").read_text())
    for name, text in configuration["data"].items():
        (folder / name).write_text(text.replace("flexunet-flink-jobmanager", "127.0.0.1"))
    with running(Flink(os.pathsep.join(classes), folder, free_port())) as started:
        yield started


@contextmanager
def running(flink: Flink) -> Iterator[Flink]:
    """One job manager and one task manager, each with the memory that Flink's scripts would give it."""
    rpc = f"-Djobmanager.rpc.port={free_port()}"
    manager = [rpc, f"-Drest.port={flink.port}", f"-Dblob.server.port={free_port()}"]
    worker = [rpc, "-Dtaskmanager.host=127.0.0.1", f"-Dtaskmanager.rpc.port={free_port()}"]
    commands = [
        command(flink, "JM", JOB_MANAGER, manager),
        command(flink, "TM", TASK_MANAGER, [*worker, f"-Dtaskmanager.data.port={free_port()}"]),
    ]
    with (flink.folder / "log").open("w") as log:
        processes = [subprocess.Popen(c, cwd=flink.folder, stdout=log, stderr=log) for c in commands]
    try:
        wait_until(
            lambda: flink.asked("overview", lambda told: bool(told["slots-total"])),
            lambda: any(process.poll() is not None for process in processes),
        )
        yield flink
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()


def command(flink: Flink, kind: str, main: str, arguments: list[str]) -> list[str]:
    asked = flink.java(UTILITIES, f"GET_{kind}_RESOURCE_PARAMS", "--configDir", str(flink.folder))
    printed = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    options, resources = (
        shlex.split(line.removeprefix(RESULT)) for line in printed.splitlines() if line.startswith(RESULT)
    )
    return flink.java(main, "--configDir", str(flink.folder), *resources, *arguments, options=tuple(options))


def test_it_is_the_flink_that_the_job_server_is_made_for(flink: Flink) -> None:
    version = flink.ask("overview")["flink-version"]
    job_server = container("jobserver")["image"]
    assert f"beam_flink{version.rpartition('.')[0]}_job_server" in job_server


def test_a_task_manager_has_the_slots_and_buffers_of_the_manifest_and_fits_its_limit(flink: Flink) -> None:
    [manager] = flink.ask("taskmanagers")["taskmanagers"]
    memory = manager["memoryConfiguration"]
    assert manager["slotsNumber"] == 2
    assert memory["networkMemory"] == GIBIBYTE
    assert memory["jvmMetaspace"] == GIBIBYTE
    # Sorting and Flink's own objects have more than the rest.
    assert memory["managedMemory"] > GIBIBYTE and memory["taskHeap"] > GIBIBYTE // 2
    limit = container("taskmanager")["resources"]["limits"]["memory"]
    assert memory["totalProcessMemory"] <= int(limit.removesuffix("Gi")) * GIBIBYTE
    # All buffers are there from the start.
    metric = f"taskmanagers/{manager['id']}/metrics?get=Status.Shuffle.Netty.AvailableMemorySegments"
    # The job manager asks for figures when it is asked for them.
    wait_until(lambda: flink.asked(metric, bool))
    [buffers] = flink.ask(metric)
    assert int(buffers["value"]) == GIBIBYTE // (32 * 1024)


def test_the_job_manager_fits_its_limit_and_restarts_a_job(flink: Flink) -> None:
    told = {entry["key"]: entry["value"] for entry in flink.ask("jobmanager/config")}
    assert told["restart-strategy.type"] == "fixed-delay" and told["restart-strategy.fixed-delay.attempts"] == "3"
    limit = container("jobmanager")["resources"]["limits"]["memory"].removesuffix("i")
    assert int(told["jobmanager.memory.process.size"].removesuffix("m")) <= int(limit.removesuffix("M"))
