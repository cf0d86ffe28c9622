"""A real Kubernetes API server with its etcd: what it admits, refuses and allows; no pod is ever started.

etcd comes from Debian (`etcd-server`), the API server is built by Go from the modules of Kubernetes; it is kept between
runs. There is no controller: what one would make in a namespace, its default account, is made here.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from go_programs import CACHE, go
from ports import free_port
from waiting import wait_until

VERSION = "1.33.13"
_TOKEN = "not-a-secret"
_MODULE = f"module flexunet.test/kubernetes\n\ngo 1.24.0\n\nrequire k8s.io/kubernetes v{VERSION}\n"
# Whatever imports it keeps it in the module's requirements.
_IMPORT = '//go:build tools\n\npackage tools\n\nimport _ "k8s.io/kubernetes/cmd/kube-apiserver"\n'


def built_server() -> Path:
    """The program; building it takes minutes once."""
    program = CACHE / f"kubernetes-v{VERSION}" / "kube-apiserver"
    if not program.is_file():
        with tempfile.TemporaryDirectory() as folder:
            module = Path(folder)
            (module / "go.mod").write_text(_MODULE)
            (module / "tools.go").write_text(_IMPORT)
            _replace_staging(module)
            go("mod", "tidy", cwd=module)
            program.parent.mkdir(parents=True, exist_ok=True)
            flags = f"-s -w -X k8s.io/component-base/version.gitVersion=v{VERSION}"
            aside = program.with_name(".incomplete")
            command = [
                "build",
                "-trimpath",
                "-ldflags",
                flags,
                "-o",
                str(aside),
                "k8s.io/kubernetes/cmd/kube-apiserver",
            ]
            go(*command, cwd=module, CGO_ENABLED="0")
            aside.rename(program)
    return program


def _replace_staging(module: Path) -> None:
    """Kubernetes' own go.mod points at folders of its repository; each is published as a module, too."""
    told = json.loads(go("mod", "download", "-json", f"k8s.io/kubernetes@v{VERSION}", cwd=module))
    own = json.loads(go("mod", "edit", "-json", told["GoMod"], cwd=module))
    staged = [replaced["Old"]["Path"] for replaced in own["Replace"] if replaced["New"]["Path"].startswith("./staging")]
    published = f"v0.{VERSION.partition('.')[2]}"
    go("mod", "edit", *[f"-replace={name}={name}@{published}" for name in staged], cwd=module)


@dataclass(frozen=True)
class Kubernetes:
    """A server that listens, and the configuration by which `kubectl` reaches it as its administrator."""

    config: Path

    def kubectl(self, *arguments: str | Path, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """What `kubectl ARGUMENTS` does, `given` on its stdin."""
        options = [f"--kubeconfig={self.config}", f"--cache-dir={self.config.with_name('cache')}"]
        command = ["kubectl", *options, *map(str, arguments)]
        return subprocess.run(command, input=given, capture_output=True, text=True, check=False)

    def apply(self, *arguments: str | Path, given: str | None = None) -> str:
        """Applied by the server, unknown fields refused; what was done to each object, and every warning."""
        done = self.kubectl("apply", "--server-side", "--validate=strict", *arguments, given=given)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def create_namespace(self, name: str, **labels: str) -> None:
        """With the account that a controller would make in it."""
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}
        for document in (namespace, account):
            self.apply("--filename=-", given=json.dumps(document))

    def create(self, document: dict[str, Any]) -> str:
        """ "" for what is admitted, else the words of the refusal."""
        return self.kubectl("create", "--filename=-", given=json.dumps(document)).stderr

    def may(self, account: str, *question: str) -> bool:
        """`may("NAMESPACE:NAME", "get", "pods", "--namespace=...")`: what `kubectl auth can-i` says of an account."""
        done = self.kubectl("auth", "can-i", *question, f"--as=system:serviceaccount:{account}")
        assert done.stdout.strip() in ("yes", "no"), done.stderr
        return done.stdout.strip() == "yes"


@contextmanager
def kubernetes() -> Iterator[Kubernetes]:
    """Starts both servers in a folder of their own and stops them."""
    for program in ("etcd", "kubectl", "openssl"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}: on Debian, apt-get install etcd-server kubernetes-client openssl")
    server = built_server()
    with tempfile.TemporaryDirectory(prefix="kubernetes-") as directory:
        folder, store, port = Path(directory), free_port(), free_port()
        subprocess.run(["openssl", "genrsa", "-out", folder / "key.pem", "2048"], check=True, capture_output=True)
        (folder / "tokens.csv").write_text(f"{_TOKEN},admin,admin,system:masters\n")
        commands = [_etcd(folder, store), _api_server(server, folder, store, port)]
        found = Kubernetes(_kubeconfig(folder, port))
        with (folder / "log").open("w") as log:
            processes = [subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) for command in commands]
        try:
            wait_until(
                lambda: found.kubectl("get", "--raw=/readyz").returncode == 0,
                lambda: any(process.poll() is not None for process in processes),
            )
            yield found
        finally:
            for process in reversed(processes):
                process.terminate()
                process.wait()


def _etcd(folder: Path, port: int) -> list[str]:
    clients, peers = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{free_port()}"
    addresses = [f"--listen-client-urls={clients}", f"--advertise-client-urls={clients}", f"--listen-peer-urls={peers}"]
    return ["etcd", f"--data-dir={folder / 'etcd'}", *addresses]


def _api_server(program: Path, folder: Path, store: int, port: int) -> list[str]:
    key = folder / "key.pem"
    return [
        str(program),
        f"--etcd-servers=http://127.0.0.1:{store}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        # Makes a certificate for itself there.
        f"--cert-dir={folder / 'certificates'}",
        "--authorization-mode=RBAC",
        f"--token-auth-file={folder / 'tokens.csv'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--service-cluster-ip-range=10.0.0.0/24",
    ]


def _kubeconfig(folder: Path, port: int) -> Path:
    certificate = str(folder / "certificates" / "apiserver.crt")
    cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority": certificate}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": _TOKEN}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "current-context": "test",
    }
    path = folder / "config"
    path.touch(mode=0o600)
    path.write_text(json.dumps(config))
    return path
