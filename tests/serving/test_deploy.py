"""The manifests: valid for Kubernetes, and as locked down as they say."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import tensorflow as tf
import yaml
from processes import ROOT

from flexunet.core.config.serving import ServingConfig
from flexunet.core.errors import UserError
from flexunet.live.drift import metrics_text
from flexunet.live.metrics import Counted
from flexunet.serving import limits
from flexunet.serving.docker import NAMED_ARGUMENTS, docker_command
from flexunet.serving.model_config import CONFIG_FILE, Named, write_named
from flexunet.serving.transport import Options

DEPLOY = ROOT / "flexunet" / "serving" / "deploy"
KUBERNETES = "1.32"


def base() -> list[dict[str, Any]]:
    listed = yaml.safe_load((DEPLOY / "base" / "kustomization.yaml").read_text())["resources"]
    return [document for name in listed for document in yaml.safe_load_all((DEPLOY / "base" / name).read_text())]


def rendered(overlay: str) -> list[dict[str, Any]]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl renders the overlays")
    command = ["kubectl", "kustomize", str(DEPLOY / "overlays" / overlay)]
    return list(yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def of_kind(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    [found] = [document for document in documents if document["kind"] == kind]
    return found


@pytest.fixture(params=["base", "cpu", "gpu"])
def documents(request: Any) -> list[dict[str, Any]]:
    return base() if request.param == "base" else rendered(request.param)


def test_every_document_is_valid(documents: list[dict[str, Any]]) -> None:
    kinds = {document["kind"] for document in documents}
    assert kinds >= {
        *("Namespace", "ServiceAccount", "PersistentVolumeClaim", "Deployment", "Service"),
        *("PodDisruptionBudget", "NetworkPolicy"),
    }
    for document in documents:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_the_pod_has_no_rights_that_it_does_not_need(documents: list[dict[str, Any]]) -> None:
    pod = of_kind(documents, "Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert of_kind(documents, "ServiceAccount")["automountServiceAccountToken"] is False
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"] is True and context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        assert name not in pod
    labels = of_kind(documents, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_models_are_mounted_read_only(documents: list[dict[str, Any]]) -> None:
    pod = of_kind(documents, "Deployment")["spec"]["template"]["spec"]
    [mount] = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "models"]
    [volume] = [v for v in pod["volumes"] if v["name"] == "models"]
    assert mount["readOnly"] is True and volume["persistentVolumeClaim"]["readOnly"] is True
    writable = {m["name"] for m in pod["containers"][0]["volumeMounts"] if not m.get("readOnly")}
    assert writable == {"tmp"}


def test_the_server_is_the_tensorflow_that_exported(documents: list[dict[str, Any]]) -> None:
    [container] = of_kind(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    image, _, tag = container["image"].partition(":")
    assert image == "tensorflow/serving"
    assert tag.removesuffix("-gpu") == tf.__version__ == ServingConfig().image.rpartition(":")[2]


def test_probes_wait_as_long_as_clients_do(documents: list[dict[str, Any]]) -> None:
    [container] = of_kind(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["startupProbe"]["httpGet"]["path"] == "/v1/models/flexunet/metadata"
    minutes = {}
    for name in ("readinessProbe", "livenessProbe"):
        asks = container[name]
        shell, script, seconds = asks["exec"]["command"]
        assert (shell, script, float(seconds)) == ("bash", "/etc/serving/predict.sh", limits.CLIENT_SECONDS)
        # It looks once more when its time is over.
        assert asks["timeoutSeconds"] >= limits.CLIENT_SECONDS + 5
        minutes[name] = asks["failureThreshold"] * max(asks["periodSeconds"], limits.CLIENT_SECONDS) / 60
    # A pod leaves the endpoints before it is restarted.
    assert minutes == {"readinessProbe": 2, "livenessProbe": 4}


def test_nobody_waits_for_an_answer_when_the_server_ends(documents: list[dict[str, Any]]) -> None:
    pod = of_kind(documents, "Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    # Endpoints, a connection's age and a tenth, which gRPC adds at most, and the answers; the server itself ends in the
    # middle of them.
    assert pause >= 10 + 1.1 * limits.CONNECTION_SECONDS + limits.CLIENT_SECONDS
    assert pause < pod["terminationGracePeriodSeconds"]
    assert pod["shareProcessNamespace"] is True
    [ages] = [one for one in container["args"] if one.startswith("--grpc_channel_arguments=")]
    assert ages.partition("=")[2].split(",") == [
        f"grpc.max_connection_age_ms={1000 * limits.CONNECTION_SECONDS:g}",
        f"grpc.max_connection_age_grace_ms={1000 * limits.CLIENT_SECONDS:g}",
    ]
    readme = " ".join((DEPLOY / "README.md").read_text().split())
    assert (
        f"`preStop` waits {pause} s" in readme and f"grace period, {pod['terminationGracePeriodSeconds']} s" in readme
    )


def probe(port: int, seconds: int) -> int:
    script = DEPLOY / "base" / "predict.sh"
    return subprocess.run(["bash", script, str(seconds), str(port)], capture_output=True, timeout=60).returncode


class Probed:
    """A server that says the same to each request for a mask, and at each look at its counts the next of them."""

    def __init__(self, answer: bytes | None, counts: Sequence[int]) -> None:
        self.answer, self.counts, self.asked = answer, [*counts], list[bytes]()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                threading.Thread(target=self._respond, args=(connection,), daemon=True).start()

    def _respond(self, connection: socket.socket) -> None:
        # What was given up may be closed.
        with connection, contextlib.suppress(OSError):
            asked = connection.recv(65536)
            # The shell sends line by line, and a server answers when it has the whole request.
            while not asked.endswith((b"}]}}", b"Content-Length: 0\r\n\r\n")):
                more = connection.recv(65536)
                if not more:
                    return
                asked += more
            self.asked.append(asked.partition(b"\r\n")[0])
            if asked.startswith(b"GET"):
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + self._page())
            elif self.answer is None:
                time.sleep(3)
            else:
                connection.sendall(self.answer)

    def _page(self) -> bytes:
        count = self.counts.pop(0) if len(self.counts) > 1 else self.counts[0]
        cell = '{model_name="flexunet",API="Predict",runtime="TF1"}'
        lines = [f":tensorflow:serving:{name}_latency_count{cell}" for name in ("request", "runtime")]
        return f"{lines[0]} 1\n{lines[1]} {count}\n".encode()

    def close(self) -> None:
        # Else the thread that waits in it would not hear of it.
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


FULL = b"HTTP/1.1 503 Service Unavailable\r\n\r\n"
PROBED: dict[str, tuple[bytes | None, list[int], bool]] = {
    "answers": (b"HTTP/1.1 200 OK\r\n\r\n{}", [7], True),
    "full": (FULL, [7, 9], True),
    "full for a while": (FULL, [7, 7, 9], True),
    "late": (None, [7, 9], True),
    "full and wedged": (FULL, [7], False),
    "wedged": (None, [7], False),
    "no model": (b"HTTP/1.1 404 Not Found\r\n\r\n", [0], False),
    "hangs up": (b"", [7], False),
}


def test_a_probe_passes_where_anybody_is_answered_and_fails_where_nobody_is() -> None:
    """A full queue restarts no pod and takes none from the endpoints. A wedged server takes connections, no more."""
    servers = {name: Probed(answer, counts) for name, (answer, counts, _) in PROBED.items()}
    with ThreadPoolExecutor(len(servers)) as pool:
        codes = dict(zip(servers, pool.map(lambda one: probe(one.port, seconds=2), servers.values()), strict=True))
    assert {name: code == 0 for name, code in codes.items()} == {name: passes for name, (*_, passes) in PROBED.items()}
    [metrics] = re.findall(r'path: "(.+)"', (DEPLOY / "base" / "monitoring.pbtxt").read_text())
    asked = {one.decode() for server in servers.values() for one in server.asked}
    assert asked == {"POST /v1/models/flexunet:predict HTTP/1.1", f"GET {metrics} HTTP/1.1"}
    for server in servers.values():
        server.close()


def test_a_probe_fails_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert probe(port, seconds=1) != 0


def test_threads_are_those_that_the_arithmetic_says(documents: list[dict[str, Any]]) -> None:
    [container] = of_kind(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    flags = [f"--grpc_max_threads={limits.GRPC_THREADS}", f"--rest_api_num_threads={limits.REST_THREADS}"]
    flags += ["--enable_batching=false", f"--rest_api_timeout_in_ms={1000 * limits.CLIENT_SECONDS:g}"]
    for arguments in (container["args"], docker_command(Path("model/1"), 1, 2).split()):
        assert {*flags} <= set(arguments)
    # A queue that is full of large requests leaves threads that say so.
    assert min(limits.GRPC_THREADS, limits.REST_THREADS) > limits.QUEUED_BATCHES + limits.BATCH_THREADS
    readme = (DEPLOY / "README.md").read_text()
    for row in (
        f"| rows in a batch | {limits.BATCH_ROWS} |",
        f"| batches at once | {limits.BATCH_THREADS} |",
        f"| batches that wait | {limits.QUEUED_BATCHES} |",
        f"| `--grpc_max_threads` | {limits.GRPC_THREADS} |",
        f"| `--rest_api_num_threads` | {limits.REST_THREADS} |",
        f"| a client's patience | {limits.CLIENT_SECONDS:g} s, {Options().attempts} tries |",
    ):
        assert row in readme
    # What waits is answered before its client gives up, at 20 rows a second.
    assert limits.QUEUED_BATCHES * limits.BATCH_ROWS / 20 < limits.CLIENT_SECONDS


def test_the_printed_docker_run_has_an_init() -> None:
    assert docker_command(Path("model/1"), 1, 2).startswith("docker run --init ")


def test_the_pod_that_copies_a_model_may_write_to_the_volume(documents: list[dict[str, Any]]) -> None:
    """A fresh volume is root's; and what is copied must be read by the server's user."""
    overrides = (DEPLOY / "README.md").read_text().partition("--overrides='")[2].partition("'")[0]
    context = json.loads(overrides)["spec"]["securityContext"]
    server = of_kind(documents, "Deployment")["spec"]["template"]["spec"]["securityContext"]
    assert context["runAsUser"] == server["runAsUser"] and context["fsGroup"] == server["runAsGroup"]


def test_a_container_follows_the_file_only_where_its_folder_is(tmp_path: Path) -> None:
    write_named(tmp_path, Named("/models/flexunet", 1))
    words = docker_command(tmp_path / "1", 1, 2, tmp_path / CONFIG_FILE).split()
    assert {*NAMED_ARGUMENTS} <= {*words} and not [word for word in words if word.startswith("--model_base_path")]
    assert f"type=bind,source={tmp_path},target=/models/flexunet,readonly" in words
    write_named(tmp_path, Named(str(tmp_path), 1))
    with pytest.raises(UserError, match="--base-path /models/flexunet"):
        docker_command(tmp_path / "1", 1, 2, tmp_path / CONFIG_FILE)
    for version in (tmp_path / "model", tmp_path / "elsewhere" / "1"):
        with pytest.raises(UserError, match="beside numeric versions"):
            docker_command(version, 1, 2, tmp_path / CONFIG_FILE)


def test_the_job_that_the_rules_know_asks_the_pods() -> None:
    """As the README has it; `FlexunetDown` tells where Prometheus has no such job, and would else never do anything."""
    text = (DEPLOY / "README.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    [job] = yaml.safe_load(text)["scrape_configs"]
    [group] = yaml.safe_load((DEPLOY / "monitoring" / "rules.yaml").read_text())["groups"]
    [down] = [rule["expr"] for rule in group["rules"] if rule.get("alert") == "FlexunetDown"]
    up = f'up{{job="{job["job_name"]}"}}'
    assert down == f"{up} == 0 or absent({up})"
    assert f'path: "{job["metrics_path"]}"' in (DEPLOY / "base" / "monitoring.pbtxt").read_text()
    template = of_kind(base(), "Deployment")["spec"]["template"]
    [kept] = job["relabel_configs"]
    name, port = kept["regex"].split(";")
    assert template["metadata"]["labels"] == {"app.kubernetes.io/name": name}
    ports = {one["name"]: one["containerPort"] for one in template["spec"]["containers"][0]["ports"]}
    assert str(ports[port]) == template["metadata"]["annotations"]["prometheus.io/port"]
    assert job["kubernetes_sd_configs"][0]["namespaces"]["names"] == [of_kind(base(), "Namespace")["metadata"]["name"]]


def test_only_named_callers_reach_the_port_that_reloads_the_configuration(documents: list[dict[str, Any]]) -> None:
    policy = of_kind(documents, "NetworkPolicy")["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"} and "egress" not in policy
    callers = {rule["ports"][0]["port"]: rule["from"] for rule in policy["ingress"]}
    assert callers["grpc"] == [{"podSelector": {"matchLabels": {"flexunet.dev/serving-client": "grpc"}}}]
    assert set(callers) == {"grpc", "rest"}


def test_one_of_two_servers_stays_when_a_node_is_drained(documents: list[dict[str, Any]]) -> None:
    assert of_kind(documents, "Deployment")["spec"]["replicas"] == 2
    assert of_kind(documents, "PodDisruptionBudget")["spec"]["minAvailable"] == 1


def test_the_overlays_differ_in_what_they_ask_for() -> None:
    cpu, gpu = (
        of_kind(rendered(name), "Deployment")["spec"]["template"]["spec"]["containers"][0] for name in ("cpu", "gpu")
    )
    assert "nvidia.com/gpu" not in cpu["resources"]["limits"] and cpu["image"].endswith(":2.21.0")
    assert gpu["resources"]["limits"]["nvidia.com/gpu"] == "1" and gpu["image"].endswith("-gpu")
    assert all("memory" in container["resources"]["limits"] for container in (cpu, gpu))


def test_the_policy_and_the_budget_select_the_server(documents: list[dict[str, Any]]) -> None:
    labels = {"app.kubernetes.io/name": "flexunet-serving"}
    assert of_kind(documents, "NetworkPolicy")["spec"]["podSelector"] == {"matchLabels": labels}
    assert of_kind(documents, "PodDisruptionBudget")["spec"]["selector"] == {"matchLabels": labels}
    assert of_kind(documents, "Service")["spec"]["selector"] == labels
    assert labels.items() <= of_kind(documents, "Deployment")["spec"]["template"]["metadata"]["labels"].items()


METRICS = {
    "up",
    ":tensorflow:serving:request_count",
    ":tensorflow:serving:request_latency_bucket",
    ":tensorflow:serving:batching:batch_delay_us_v2_bucket",
    ":tensorflow:cc:saved_model:load_attempt_count",
}


def test_rules_and_dashboard_ask_for_metrics_that_exist() -> None:
    """Of TF Serving, of the watch, or recorded by a rule; every alert says what to do."""
    nothing: Any = {"moved": False, "sampled": 0, "findings": []}
    told = Counted().text(Path()) + metrics_text(nothing, 0.0)
    of_watch = {line.split(" ")[2] for line in told.splitlines() if line.startswith("# TYPE")}
    [group] = yaml.safe_load((DEPLOY / "monitoring" / "rules.yaml").read_text())["groups"]
    recorded = {rule["record"] for rule in group["rules"] if "record" in rule}
    dashboard = json.loads((DEPLOY / "monitoring" / "dashboard.json").read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    for expression in [rule["expr"] for rule in group["rules"]] + shown:
        names = set(re.findall(r"(?:flexunet)?:[a-z_0-9:]+|flexunet_[a-z_]+|\bup\b", expression))
        assert names and names <= METRICS | recorded | of_watch, expression
        assert expression.count("(") == expression.count(")") and expression.count("{") == expression.count("}")
    assert recorded <= {name for expression in shown for name in re.findall(r"flexunet:[a-z_0-9:]+", expression)}
    alerts = [rule for rule in group["rules"] if "alert" in rule]
    # What callers do wrong, an unknown signature over gRPC among it, pages nobody and is told as theirs.
    [share] = [rule["expr"] for rule in group["rules"] if rule.get("record") == "flexunet:error_share:rate5m"]
    [theirs] = [alert["expr"] for alert in alerts if alert["alert"] == "FlexunetCallersMistakes"]
    mistakes = "INVALID_ARGUMENT|NOT_FOUND|FAILED_PRECONDITION"
    assert f'status!~"OK|{mistakes}"' in share and f'status=~"{mistakes}"' in theirs
    assert len(alerts) == 9 and all({"summary", "action"} == set(alert["annotations"]) for alert in alerts)
