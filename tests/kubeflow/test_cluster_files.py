"""The manifests: valid for Kubernetes, with no more rights than they need, and no secret in them."""

import importlib.metadata
import itertools
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml
from apache_beam.options.pipeline_options import FlinkRunnerOptions

from flexunet.cli import live
from flexunet.core.config.beam import BeamRunConfig
from flexunet.core.config.kubeflow import KubeflowConfig
from flexunet.history.database import DATABASE_VARIABLES, OPTIONAL_VARIABLES
from kubeflow import commands, entry
from kubeflow import take_in as take_in_step

CLUSTER = Path(__file__).parents[2] / "kubeflow" / "cluster"
KUBERNETES = "1.32"
OVERLAYS = ("try-out", "multi-user", "serving")
# Kustomize's own, and a custom resource of Kubeflow's: Kubernetes has no schema for them.
OTHER_KINDS = {"Kustomization", "Component", "Profile"}


def files() -> list[dict[str, Any]]:
    found = [yaml.safe_load_all(path.read_text()) for path in sorted(CLUSTER.rglob("*.yaml"))]
    return [document for documents in found for document in documents]


def rendered(overlay: str) -> list[dict[str, Any]]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl renders the overlays")
    command = ["kubectl", "kustomize", str(CLUSTER / "overlays" / overlay)]
    return list(yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def pods(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Specs of pods and of templates of pods, by name."""
    found = {d["metadata"]["name"]: d["spec"] for d in documents if d["kind"] == "Pod"}
    templates = [d for d in documents if d["kind"] in ("StatefulSet", "Deployment", "Job")]
    found |= {d["metadata"]["name"]: d["spec"]["template"]["spec"] for d in templates}
    jobs = [d for d in documents if d["kind"] == "CronJob"]
    return {**found, **{d["metadata"]["name"]: d["spec"]["jobTemplate"]["spec"]["template"]["spec"] for d in jobs}}


def pods_labels(name: str) -> dict[str, str]:
    """Of a pod, or of the pods of a CronJob."""
    [found] = [d for d in files() if d["kind"] in ("Pod", "CronJob") and d["metadata"]["name"] == name]
    pod = found if found["kind"] == "Pod" else found["spec"]["jobTemplate"]["spec"]["template"]
    return pod["metadata"]["labels"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


@pytest.fixture(params=["files", *OVERLAYS])
def documents(request: Any) -> list[dict[str, Any]]:
    return files() if request.param == "files" else rendered(request.param)


def test_every_document_is_valid(documents: list[dict[str, Any]]) -> None:
    checked = [document for document in documents if document["kind"] not in OTHER_KINDS]
    assert checked
    for document in checked:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_no_pod_may_do_more_than_it_needs(documents: list[dict[str, Any]]) -> None:
    found = pods(documents)
    assert found
    for name, pod in found.items():
        assert pod["automountServiceAccountToken"] is False, name
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True and context["runAsUser"] > 0, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in containers(pod):
            inner = container["securityContext"]
            assert inner["readOnlyRootFilesystem"] is True and inner["allowPrivilegeEscalation"] is False, name
            assert inner["capabilities"] == {"drop": ["ALL"]}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name


def test_no_pod_gets_a_proxy_that_pods_of_runs_have_not() -> None:
    """Namespaces of profiles inject Istio's; it never ends, so that a job would not either."""
    templates = [d if d["kind"] == "Pod" else d["spec"].get("template") for d in files() if "spec" in d]
    templates += [d["spec"]["jobTemplate"]["spec"]["template"] for d in files() if d["kind"] == "CronJob"]
    found = [template["metadata"]["labels"] for template in templates if template]
    assert len(found) == len(pods(files()))
    assert {labels["sidecar.istio.io/inject"] for labels in found} == {"false"}


def test_every_container_says_what_it_takes(documents: list[dict[str, Any]]) -> None:
    for name, pod in pods(documents).items():
        for container in containers(pod):
            assert set(container["resources"]["requests"]) >= {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name


def test_no_file_holds_a_secret() -> None:
    secrets = [document for document in files() if document["kind"] == "Secret"]
    assert len(secrets) == 1
    assert "data" not in secrets[0] and set(secrets[0]["stringData"].values()) == {""}
    kustomizations = [document for document in files() if document["kind"] in ("Kustomization", "Component")]
    assert "secret.example.yaml" not in str(kustomizations)
    assert not any("secretGenerator" in document for document in kustomizations)


def test_the_secrets_keys_are_those_that_the_package_reads() -> None:
    [secret] = [document for document in files() if document["kind"] == "Secret"]
    assert set(secret["stringData"]) == {*DATABASE_VARIABLES, *OPTIONAL_VARIABLES}
    assert secret["metadata"]["name"] == KubeflowConfig().database_secret


@pytest.mark.parametrize("pod", ["flexunet-toolbox", "flexunet-drift"])
def test_who_asks_the_database_does_so_with_the_same_secret(pod: str) -> None:
    [container] = pods(files())[pod]["containers"]
    references = {v["name"]: v["valueFrom"]["secretKeyRef"] for v in container["env"] if "valueFrom" in v}
    assert {name: reference["key"] for name, reference in references.items()} == {
        variable: key for key, variable in {**DATABASE_VARIABLES, **OPTIONAL_VARIABLES}.items()
    }
    assert {reference["name"] for reference in references.values()} == {KubeflowConfig().database_secret}
    optional = {name for name, reference in references.items() if reference.get("optional")}
    assert optional == set(OPTIONAL_VARIABLES.values())


def test_the_database_takes_its_password_from_the_secret() -> None:
    container = pods(files())["flexunet-metadata"]["containers"][0]
    variables = {variable["name"]: variable for variable in container["env"]}
    references = {n: v["valueFrom"]["secretKeyRef"] for n, v in variables.items() if n.startswith("POSTGRES_")}
    assert {name: reference["key"] for name, reference in references.items()} == {
        "POSTGRES_DB": "database",
        "POSTGRES_USER": "user",
        "POSTGRES_PASSWORD": "password",
    }
    assert {reference["name"] for reference in references.values()} == {KubeflowConfig().database_secret}


def test_only_runs_the_toolbox_and_the_job_of_drift_reach_the_database() -> None:
    policies = {d["metadata"]["name"]: d["spec"] for d in files() if d["kind"] == "NetworkPolicy"}
    policy = policies["flexunet-metadata"]
    assert policy["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "flexunet-metadata"}
    # Nothing goes out; an empty list would count as a change each time that the file is applied.
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"} and "egress" not in policy
    [rule] = policy["ingress"]
    runs, *others = (source["podSelector"]["matchLabels"] for source in rule["from"])
    assert runs == {"pipelines.kubeflow.org/v2_component": "true"}
    for labels, pod in zip(others, ("flexunet-toolbox", "flexunet-drift"), strict=True):
        assert labels.items() <= pods_labels(pod).items()


def test_the_account_of_runs_may_neither_list_secrets_nor_make_pods() -> None:
    [role] = [document for document in files() if document["kind"] == "Role"]
    # What a run on Kubeflow Pipelines 2.16.1 was found to need; nothing is for versions that there may be one day.
    needed = {"configmaps", "secrets", "pods", "workflowtaskresults"}
    assert {resource for rule in role["rules"] for resource in rule["resources"]} == needed
    assert not [document for document in files() if document["kind"].startswith("ClusterRole")]
    for rule in role["rules"]:
        assert "*" not in [*rule["resources"], *rule["verbs"], *rule["apiGroups"]]
        if set(rule["resources"]) & {"secrets", "configmaps"}:
            assert rule["verbs"] == ["get"] and rule["resourceNames"]
        if "pods" in rule["resources"]:
            assert rule["verbs"] == ["get"]


def test_names_are_the_configs_defaults() -> None:
    settings = KubeflowConfig()
    by_kind = {document["kind"]: document for document in files() if document["kind"] != "Kustomization"}
    assert by_kind["ServiceAccount"]["metadata"]["name"] == settings.service_account
    claim = by_kind["PersistentVolumeClaim"]
    assert claim["metadata"]["name"] == settings.volume_claim
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    toolbox = by_kind["Pod"]["spec"]
    assert toolbox["securityContext"]["runAsUser"] == settings.run_as_user
    mounts = {mount["name"]: mount["mountPath"] for mount in toolbox["containers"][0]["volumeMounts"]}
    assert mounts["data"] == settings.mount_path


def test_the_server_reads_what_the_runs_push() -> None:
    documents = rendered("serving")
    pod = pods(documents)["flexunet-serving"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["models"]["persistentVolumeClaim"] == {"claimName": "flexunet-data", "readOnly": True}
    [mount] = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "models"]
    assert mount["subPath"] == f"{KubeflowConfig().root}/serving_model" and mount["readOnly"] is True
    kinds = {document["kind"] for document in documents}
    assert not kinds & {"Namespace", "PersistentVolumeClaim"}
    assert {document["metadata"].get("namespace") for document in documents} == {"kubeflow"}


@pytest.mark.parametrize("overlay", ["try-out", "multi-user"])
def test_an_overlay_names_a_storage_class_and_the_image_that_the_how_to_pushes(overlay: str) -> None:
    documents = rendered(overlay)
    [claim] = [document for document in documents if document["kind"] == "PersistentVolumeClaim"]
    assert claim["spec"]["storageClassName"] == "shared"
    image = pods(documents)["flexunet-toolbox"]["containers"][0]["image"]
    how_to = (CLUSTER.parents[1] / "docs" / "how-to" / "kubeflow.md").read_text()
    assert f"docker push {image}\n" in how_to and f"--image {image} " in how_to


def test_a_profile_is_applied_before_what_lies_in_its_namespace() -> None:
    assert "Profile" not in {document["kind"] for document in rendered("multi-user")}
    [profile] = [document for document in files() if document["kind"] == "Profile"]
    assert {document["metadata"]["namespace"] for document in rendered("multi-user")} == {profile["metadata"]["name"]}


def test_the_week_is_one_line_more_in_an_overlay(tmp_path: Path) -> None:
    shutil.copytree(CLUSTER, tmp_path / "cluster")
    overlay = tmp_path / "cluster" / "overlays" / "try-out"
    file = overlay / "kustomization.yaml"
    file.write_text(file.read_text().replace("components:\n", "components:\n  - ../../schedule\n"))
    documents = rendered(str(overlay))
    [job] = [document["spec"] for document in documents if document["kind"] == "CronJob"]
    pod = pods(documents)["flexunet-weekly"]
    # Runs share a folder; a refused model must not be submitted again.
    assert job["concurrencyPolicy"] == "Forbid" and job["jobTemplate"]["spec"]["backoffLimit"] == 0
    assert [container["name"] for container in containers(pod)] == ["take-in", "submit"]
    assert {container["image"] for container in containers(pod)} == {"registry.example/flexunet:1-cuda"}
    settings = KubeflowConfig()
    assert pod["serviceAccountName"] == settings.service_account
    for container in containers(pod):
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts["data"] == settings.mount_path == container["workingDir"]


def test_the_weeks_containers_are_called_as_their_commands_take_it() -> None:
    take_in, submit = containers(pods(files())["flexunet-weekly"])
    assert take_in["command"] == ["python", "-m", take_in_step.__name__]
    take_in_step.main.make_context("take-in", list(take_in["args"]))
    assert submit["command"][:3] == ["flexunet", "kubeflow", "submit"]
    given = commands.kubeflow_submit.get_params(click.Context(commands.kubeflow_submit))
    known = {option for parameter in given for option in parameter.opts}
    assert {argument.partition("=")[0] for argument in submit["args"]} <= known


def test_drift_starts_a_run_as_the_week_does() -> None:
    found = pods(files())
    [container] = found["flexunet-drift"]["containers"]
    take_in, submit = ([*one["command"], *one["args"]] for one in containers(found["flexunet-weekly"]))
    script = container["args"][0]
    assert " ".join(take_in) in script and " ".join(submit).replace("weekly", "drift") in script
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts["data"] == KubeflowConfig().mount_path == container["workingDir"]
    claims = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in found["flexunet-drift"]["volumes"][:2]}
    watch = CLUSTER.parents[1] / "flexunet" / "serving" / "deploy" / "components" / "watch"
    [claim] = yaml.safe_load_all((watch / "watched.yaml").read_text())
    assert claims["watched"] == claim["metadata"]["name"]
    assert {"name": "WATCHED", "value": mounts["watched"]} in container["env"]


def test_no_morning_is_in_no_window_of_drift() -> None:
    [job] = [d["spec"] for d in files() if d["kind"] == "CronJob" and d["metadata"]["name"] == "flexunet-drift"]
    *_, days = job["schedule"].split()
    ends = [part.split("-") for part in days.split(",")]
    checked = [day for end in ends for day in range(int(end[0]), int(end[-1]) + 1)]
    longest = max(after - before for before, after in itertools.pairwise([*checked, checked[0] + 7]))
    [container] = job["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    [hours] = re.findall(r"--hours=(\d+)", container["args"][0])
    assert checked == [0, 2, 3, 4, 5, 6] and int(hours) >= 24 * longest


@pytest.mark.parametrize(("drift", "taken_in", "done", "code"), [
    (0, 0, ["drift"], 0),
    (1, 0, ["drift"], 1),
    (5, 0, ["drift", "take-in", "submit"], 2),
    (5, 1, ["drift", "take-in"], 1),
])  # fmt: skip
def test_only_drift_starts_a_run_whose_verdict_is_the_jobs(
    tmp_path: Path, drift: int, taken_in: int, done: list[str], code: int
) -> None:
    """The job's own line by a shell, with commands that end as ours do in the place of ours."""
    [container] = pods(files())["flexunet-drift"]["containers"]
    submits = "[ $1 = kubeflow ] && { echo submit >> done; exit 2; }"
    flexunet = f'{submits}\necho drift >> done; echo "$@" > asked; exit {drift}'
    for name, text in {"flexunet": flexunet, "python": f"echo take-in >> done; exit {taken_in}"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    for folder in ("flexunet-b/hours", "flexunet-a/hours", "lost+found"):
        (tmp_path / "watched" / folder).mkdir(parents=True)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "WATCHED": "watched"}
    command = [*container["command"], *container["args"]]
    assert subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode == code
    assert (tmp_path / "done").read_text().split() == done
    asked = (tmp_path / "asked").read_text().split()
    watched = [argument for pod in "ab" for argument in ("--watched", f"watched/flexunet-{pod}")]
    assert asked == ["live", "drift", "runs/main", "--hours=48", *watched]
    live.drift.make_context("drift", asked[2:])


def test_drift_where_no_watch_has_written_is_an_error_and_nothing_is_compared(tmp_path: Path) -> None:
    """What an earlier morning found is beside the runs, so that a folder of no watch is there."""
    [container] = pods(files())["flexunet-drift"]["containers"]
    environment = {"PATH": "/usr/bin:/bin", "WATCHED": "watched"}
    command = [*container["command"], *container["args"]]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "error: watched: no watch has written there yet\n")


def test_each_task_manager_has_a_worker_pool_of_its_own_where_the_config_looks_for_it() -> None:
    pod = pods(files())["flexunet-flink-taskmanager"]
    manager, pool = containers(pod)
    host, _, port = BeamRunConfig().worker_pool.partition(":")
    assert host == "localhost" and pool["ports"][0]["containerPort"] == int(port)
    # Workers write the runs' files as the runs' user does.
    settings = KubeflowConfig()
    assert pool["securityContext"]["runAsUser"] == settings.run_as_user
    assert f"umask {entry.UMASK:03o}" in pool["command"][-1]
    mounts = {mount["name"]: mount["mountPath"] for mount in pool["volumeMounts"]}
    assert mounts["data"] == settings.mount_path
    assert "data" not in {mount["name"] for mount in manager["volumeMounts"]}


def test_the_job_server_is_of_the_beam_and_the_flink_that_are_here() -> None:
    found = pods(files())
    beam, flink = importlib.metadata.version("apache-beam"), "1.20"
    assert flink in FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS
    assert found["flexunet-flink-jobserver"]["containers"][0]["image"] == f"apache/beam_flink{flink}_job_server:{beam}"
    for name in ("flexunet-flink-jobmanager", "flexunet-flink-taskmanager"):
        assert found[name]["containers"][0]["image"].startswith(f"flink:{flink}.")


def test_flink_has_buffers_for_the_largest_graph_and_restarts_a_job() -> None:
    [settings] = [d["data"] for d in files() if d["kind"] == "ConfigMap" and d["metadata"]["name"] == "flexunet-flink"]
    flink = yaml.safe_load(settings["config.yaml"])
    assert flink["taskmanager"]["memory"]["network"] == {"min": "1g", "max": "1g"}
    assert flink["restart-strategy"]["type"] == "fixed-delay"
    limit = pods(files())["flexunet-flink-taskmanager"]["containers"][0]["resources"]["limits"]["memory"]
    assert flink["taskmanager"]["memory"]["process"]["size"] == "5g" and limit == "5Gi"


def test_flink_is_one_line_more_in_an_overlay(tmp_path: Path) -> None:
    shutil.copytree(CLUSTER, tmp_path / "cluster")
    overlay = tmp_path / "cluster" / "overlays" / "try-out"
    file = overlay / "kustomization.yaml"
    file.write_text(file.read_text().replace("components:\n", "components:\n  - ../../flink\n"))
    found = {document["metadata"]["name"] for document in rendered(str(overlay))}
    assert {"flexunet-flink-jobmanager", "flexunet-flink-taskmanager", "flexunet-flink-jobserver"} <= found
