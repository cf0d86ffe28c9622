"""Watch and init container beside the server in the manifests: valid, locked down; the watch is asked in its place."""

import shutil
import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml
from processes import ROOT

from flexunet.cli.live import watch
from flexunet.live import proxy
from flexunet.serving import signing
from flexunet.serving.docker import NAMED_ARGUMENTS

DEPLOY = ROOT / "flexunet" / "serving" / "deploy"


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def documents(request: Any, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """As an overlay of a user's names it."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl renders the overlays")
    folder = tmp_path_factory.mktemp("manifests")
    shutil.copytree(DEPLOY, folder / "deploy")
    mine = folder / "deploy" / "overlays" / "mine"
    mine.mkdir()
    named = {
        "resources": [f"../{request.param}"],
        "components": [f"../../components/{name}" for name in ("watch", "verify", "canary")],
    }
    (mine / "kustomization.yaml").write_text(yaml.safe_dump(named))
    done = subprocess.run(["kubectl", "kustomize", str(mine)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(documents: list[dict[str, Any]], kind: str, name: str = "flexunet-serving") -> dict[str, Any]:
    [found] = [one for one in documents if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def test_every_document_is_valid(documents: list[dict[str, Any]]) -> None:
    for document in documents:
        kubernetes_validate.validate(document, "1.32", strict=True)
        assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == "flexunet"


def test_a_watch_ends_in_what_is_left_of_the_grace_period(documents: list[dict[str, Any]]) -> None:
    pod = of_kind(documents, "Deployment")["spec"]["template"]["spec"]
    [command] = [
        one["lifecycle"]["preStop"]["exec"]["command"]
        for one in pod["containers"]
        if any(port["name"] == "watch-grpc" for port in one["ports"])
    ]
    left = pod["terminationGracePeriodSeconds"] - int(command[1])
    assert left > proxy._DRAIN_SECONDS + proxy._CLOSE_SECONDS + proxy._KILL_SECONDS


def test_the_service_asks_the_watch_and_names_the_servers_own_ports(documents: list[dict[str, Any]]) -> None:
    pod = of_kind(documents, "Deployment")["spec"]["template"]["spec"]
    ports = {port["name"]: port["containerPort"] for one in pod["containers"] for port in one["ports"]}
    service = of_kind(documents, "Service")["spec"]["ports"]
    leads_to = {port["port"]: ports[port["targetPort"]] for port in service}
    assert leads_to == {8500: 8600, 8501: 8601, 8510: 8500, 8511: 8501}
    allowed = [
        {port["port"] for port in rule["ports"]} for rule in of_kind(documents, "NetworkPolicy")["spec"]["ingress"]
    ]
    assert allowed == [{"grpc", "watch-grpc"}, {"rest", "watch-rest"}]


def test_the_container_is_the_command_and_has_no_rights_that_it_does_not_need(documents: list[dict[str, Any]]) -> None:
    pod = of_kind(documents, "Deployment")["spec"]["template"]["spec"]
    server, watching = pod["containers"]
    assert watching["command"] == ["flexunet", "live", "watch"]
    values, _, _ = watch.make_parser(watch.make_context("watch", [*watching["args"]])).parse_args([*watching["args"]])
    assert (values["host"], values["out"]) == ("0.0.0.0", "/watched/$(POD_NAME)")
    assert watching["securityContext"] == server["securityContext"]
    writable = {mount["name"]: mount["mountPath"] for mount in watching["volumeMounts"]}
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsUser"]
    assert writable == {"watched": "/watched", "tmp": "/tmp"} and {"watched", "tmp"} <= {
        v["name"] for v in pod["volumes"]
    }
    assert of_kind(documents, "PersistentVolumeClaim", "flexunet-watched")["spec"]["accessModes"] == ["ReadWriteMany"]
    # Not before the server has answered those that were under way.
    assert watching["lifecycle"] == server["lifecycle"]


def test_no_server_starts_on_what_the_key_did_not_sign(documents: list[dict[str, Any]]) -> None:
    pod = of_kind(documents, "Deployment")["spec"]["template"]["spec"]
    [verifies], server = pod["initContainers"], pod["containers"][0]
    assert verifies["command"] == ["python", "-m", signing.__name__]
    key, folder = verifies["args"]
    mounts = {mount["name"]: mount["mountPath"] for mount in verifies["volumeMounts"]}
    [models] = [mount for mount in server["volumeMounts"] if mount["name"] == "models"]
    assert folder == mounts["models"] == models["mountPath"] and key.startswith(mounts["signing"])
    assert verifies["securityContext"] == server["securityContext"]
    assert {*mounts} <= {volume["name"] for volume in pod["volumes"]}


def test_the_server_follows_the_file_of_named_versions(documents: list[dict[str, Any]]) -> None:
    pod = of_kind(documents, "Deployment")["spec"]["template"]["spec"]
    arguments = pod["containers"][0]["args"]
    assert {*NAMED_ARGUMENTS} <= {*arguments}
    assert not [one for one in arguments if one.startswith(("--model_name", "--model_base_path"))]
