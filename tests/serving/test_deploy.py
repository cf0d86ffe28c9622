"""The manifests: valid for Kubernetes, and as locked down as they say."""

import json
import re
import shutil
import socket
import subprocess
import time
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


def test_probes_ask_for_a_version_that_is_ready_and_stopping_is_graceful(documents: list[dict[str, Any]]) -> None:
    pod = of_kind(documents, "Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["startupProbe"]["httpGet"]["path"] == "/v1/models/flexunet/metadata"
    for name in ("readinessProbe", "livenessProbe"):
        shell, script, seconds = container[name]["exec"]["command"]
        assert (shell, script) == ("bash", "/etc/serving/predict.sh") and int(seconds) < container[name][
            "timeoutSeconds"
        ]
    # Only who was given up by every client is restarted.
    assert int(seconds) >= limits.CLIENT_SECONDS
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    # Who was asked last is answered before the signal comes; the server itself ends in the middle of its answers.
    assert pause >= 10 + limits.CLIENT_SECONDS
    assert pause < pod["terminationGracePeriodSeconds"]
    assert pod["shareProcessNamespace"] is True


def probe(port: int, seconds: int) -> int:
    script = DEPLOY / "base" / "predict.sh"
    return subprocess.run(["bash", script, str(seconds), str(port)], capture_output=True, timeout=60).returncode


@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n{}", True),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", False),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", False),
        (b"", False),
        (None, False),
    ],
    ids=["answers", "full", "no model", "hangs up", "wedged"],
)
def test_a_probe_passes_only_on_an_answer(answer: bytes | None, passes: bool) -> None:
    """A wedged server takes the connection and says nothing."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as pool:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                # The shell sends line by line, and a server answers when it has the whole request.
                asked.append(connection.recv(65536))
                while not asked[-1].endswith(b"}]}}"):
                    asked[-1] += connection.recv(65536)
                if answer is None:
                    time.sleep(2)
                else:
                    connection.sendall(answer)

        served = pool.submit(serve)
        assert (probe(server.getsockname()[1], seconds=1) == 0) == passes
        served.result()
    head = asked[0].partition(b"\r\n")[0]
    assert head == b"POST /v1/models/flexunet:predict HTTP/1.1"


def test_a_probe_fails_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert probe(port, seconds=1) != 0


def test_threads_are_those_that_the_arithmetic_says(documents: list[dict[str, Any]]) -> None:
    [container] = of_kind(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    flags = [f"--grpc_max_threads={limits.GRPC_THREADS}", f"--rest_api_num_threads={limits.REST_THREADS}"]
    for arguments in (container["args"], docker_command(Path("model/1"), 1, 2).split()):
        assert {*flags, "--enable_batching=false"} <= set(arguments)
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
    assert len(alerts) == 9 and all({"summary", "action"} == set(alert["annotations"]) for alert in alerts)
