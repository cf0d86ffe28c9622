"""A real API server on what a cluster is given: it takes the manifests, admits the pods, knows the rights."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp_package import Package
from kfp_pods import pod_of
from kubernetes_server import VERSION, Kubernetes, kubernetes
from processes import ROOT

from flexunet.core.config.kubeflow import KubeflowConfig

# Builds the server once, which takes minutes.
pytestmark = [pytest.mark.slow, pytest.mark.downloads, pytest.mark.timeout(3600)]

CLUSTER, DEPLOY = ROOT / "kubeflow" / "cluster", ROOT / "flexunet" / "serving" / "deploy"
OVERLAYS = {
    **{name: CLUSTER / "overlays" / name for name in ("try-out", "multi-user", "serving")},
    **{f"deploy/{name}": DEPLOY / "overlays" / name for name in ("cpu", "gpu")},
}
# Kinds of others that our files and roles name; their schemas are not ours to check.
CUSTOM = {
    "profiles.kubeflow.org": ("Profile", "Cluster"),
    "workflows.argoproj.io": ("Workflow", "Namespaced"),
    "workflowtaskresults.argoproj.io": ("WorkflowTaskResult", "Namespaced"),
    "workflowtasksets.argoproj.io": ("WorkflowTaskSet", "Namespaced"),
}


def custom_resource(name: str) -> dict[str, Any]:
    kind, scope = CUSTOM[name]
    plural, _, group = name.partition(".")
    anything = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    versions = [{"name": "v1", "served": True, "storage": True, "schema": anything}]
    spec = {"group": group, "scope": scope, "names": {"kind": kind, "plural": plural}, "versions": versions}
    version = "apiextensions.k8s.io/v1"
    return {"apiVersion": version, "kind": "CustomResourceDefinition", "metadata": {"name": name}, "spec": spec}


@pytest.fixture(scope="module")
def server() -> Iterator[Kubernetes]:
    with kubernetes() as found:
        # Kubeflow's own, and that of a profile; a namespace in which only locked-down pods may be.
        for name in ("kubeflow", "flexunet"):
            found.create_namespace(name)
        found.create_namespace("locked", **{"pod-security.kubernetes.io/enforce": "restricted"})
        for name in CUSTOM:
            found.apply("--filename=-", given=json.dumps(custom_resource(name)))
            found.kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=60s")
        yield found


def test_it_is_the_version_that_the_how_to_speaks_of(server: Kubernetes) -> None:
    told = json.loads(server.kubectl("version", "--output=json").stdout)
    assert told["serverVersion"]["gitVersion"] == f"v{VERSION}"
    assert f"Kubernetes {VERSION}" in (ROOT / "docs" / "how-to" / "kubeflow.md").read_text()


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_applied_by_the_server_and_again_without_a_change(server: Kubernetes, name: str) -> None:
    folder = OVERLAYS[name]
    applied = server.apply("--kustomize", folder)
    assert applied.count("serverside-applied") >= 5 and "would violate PodSecurity" not in applied
    difference = server.kubectl("diff", "--server-side", "--kustomize", folder)
    assert difference.returncode == 0, difference.stdout + difference.stderr


@pytest.mark.parametrize("component", ["schedule", "drift", "flink"])
def test_a_component_is_applied_with_an_overlay(server: Kubernetes, tmp_path: Path, component: str) -> None:
    shutil.copytree(CLUSTER, tmp_path / "cluster")
    overlay = tmp_path / "cluster" / "overlays" / "try-out"
    file = overlay / "kustomization.yaml"
    file.write_text(file.read_text().replace("components:\n", f"components:\n  - ../../{component}\n"))
    assert "would violate PodSecurity" not in server.apply("--kustomize", overlay)


@pytest.mark.parametrize("name", ["profile.yaml", "secret.example.yaml"])
def test_a_file_of_its_own_is_applied(server: Kubernetes, name: str) -> None:
    assert "serverside-applied" in server.apply("--namespace=kubeflow", "--filename", CLUSTER / name)


def test_an_unknown_field_is_refused(server: Kubernetes) -> None:
    """So strict is the applying above."""
    document = yaml.safe_load((CLUSTER / "base" / "volume.yaml").read_text())
    document["spec"]["storageClass"] = "shared"
    done = server.kubectl("apply", "--server-side", "--validate=strict", "-f", "-", given=json.dumps(document))
    assert done.returncode and "storageClass" in done.stderr


def pods_of_manifests(server: Kubernetes) -> dict[str, dict[str, Any]]:
    """Specs of pods and of templates of pods, as the overlays render them."""
    found: dict[str, dict[str, Any]] = {}
    for folder in OVERLAYS.values():
        for document in yaml.safe_load_all(server.kubectl("kustomize", folder).stdout):
            spec = document.get("spec", {})
            template = spec if document["kind"] == "Pod" else spec.get("template", {}).get("spec")
            # What a controller would put in place of a template of claims.
            for claim in spec.get("volumeClaimTemplates", []):
                name = claim["metadata"]["name"]
                template["volumes"].append({"name": name, "persistentVolumeClaim": {"claimName": name}})
            if template:
                found[f"{document['metadata']['name']}-{len(found)}"] = template
    return found


def test_pods_of_the_manifests_are_admitted_where_only_locked_down_ones_are(server: Kubernetes) -> None:
    found = pods_of_manifests(server)
    assert len(found) >= 6
    for name, spec in found.items():
        server.kubectl("create", "serviceaccount", spec.get("serviceAccountName", "default"), "--namespace=locked")
        metadata = {"name": name, "namespace": "locked"}
        assert server.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}) == ""


def test_pods_of_a_package_are_admitted_where_only_locked_down_ones_are(server: Kubernetes, package: Package) -> None:
    account = KubeflowConfig().service_account
    server.kubectl("create", "serviceaccount", account, "--namespace=locked")
    for task in package.tasks:
        assert server.create(pod_of(package, task, "locked", account)) == ""
    created = json.loads(server.kubectl("get", "pods", "--namespace=locked", "--output=json").stdout)["items"]
    assert {*package.tasks} <= {pod["metadata"]["name"] for pod in created}
    users = {
        pod["spec"]["containers"][0]["securityContext"]["runAsUser"]
        for pod in created
        if pod["metadata"]["name"] in package.tasks
    }
    assert users == {KubeflowConfig().run_as_user}


def test_a_pod_that_might_be_root_is_refused_there(server: Kubernetes, package: Package) -> None:
    """So strict is the admitting above."""
    pod = pod_of(package, "trainer", "locked", KubeflowConfig().service_account)
    pod["metadata"]["name"] = "root"
    del pod["spec"]["containers"][0]["securityContext"]["runAsNonRoot"]
    assert 'violates PodSecurity "restricted' in server.create(pod)


RUNS = f"kubeflow:{KubeflowConfig().service_account}"
NEEDED = [
    ("get", "configmaps/kfp-launcher"),
    ("get", "secrets/mlpipeline-minio-artifact"),
    ("get", "pods"),
    ("create", "workflowtaskresults.argoproj.io"),
    ("patch", "workflowtaskresults.argoproj.io"),
]
DENIED = [
    ("list", "secrets"),
    ("get", "secrets/flexunet-metadata"),
    ("list", "configmaps"),
    ("create", "pods"),
    ("delete", "pods"),
    ("create", "pods", "--subresource=exec"),
    ("get", "pods", "--subresource=log"),
    ("patch", "workflowtasksets.argoproj.io"),
    ("create", "workflows.argoproj.io"),
    ("create", "rolebindings.rbac.authorization.k8s.io"),
    ("create", "serviceaccounts", "--subresource=token"),
]


def test_the_account_of_runs_may_do_what_a_run_needs_and_nothing_else(server: Kubernetes) -> None:
    server.apply("--kustomize", OVERLAYS["try-out"])
    here = "--namespace=kubeflow"
    assert {question: server.may(RUNS, *question, here) for question in NEEDED} == dict.fromkeys(NEEDED, True)
    assert {question: server.may(RUNS, *question, here) for question in DENIED} == dict.fromkeys(DENIED, False)
    # Neither in another namespace.
    assert not server.may(RUNS, "get", "pods", "--namespace=flexunet")


def test_the_account_of_the_server_may_do_nothing(server: Kubernetes) -> None:
    server.apply("--kustomize", OVERLAYS["deploy/cpu"])
    asked = [*NEEDED, *DENIED]
    answers = {
        question: server.may("flexunet:flexunet-serving", *question, "--namespace=flexunet") for question in asked
    }
    assert answers == dict.fromkeys(asked, False)
