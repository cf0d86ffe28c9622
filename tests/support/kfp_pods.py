"""The pod of a task as Kubeflow Pipelines' compiler to Argo and its driver make it of a package.

What they add of their own accord is from their source: backend/src/v2/compiler/argocompiler/ (security of pod and user
container), backend/src/v2/driver/k8s.go (what the package asks). Their own containers beside ours are left out.
"""

from typing import Any

from kfp_package import Package


def pod_of(package: Package, task: str, namespace: str, account: str) -> dict[str, Any]:
    """The manifest; arguments keep their placeholders, which the launcher fills."""
    container, cluster = package.container(task), package.cluster(task)
    claims = {mount.pvc_name_parameter.runtime_value.constant.string_value: mount for mount in cluster.pvc_mount}
    volumes = [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in claims]
    volumes += [{"name": mount.volume_name, "emptyDir": _empty(mount)} for mount in cluster.empty_dir_mounts]
    mounts = [{"name": name, "mountPath": mount.mount_path} for name, mount in claims.items()]
    mounts += [{"name": mount.volume_name, "mountPath": mount.mount_path} for mount in cluster.empty_dir_mounts]
    secrets = {one.secret_name_parameter.runtime_value.constant.string_value: one for one in cluster.secret_as_volume}
    volumes += [{"name": n, "secret": {"secretName": n, "optional": one.optional}} for n, one in secrets.items()]
    mounts += [{"name": name, "mountPath": one.mount_path} for name, one in secrets.items()]
    main = {
        "name": "main",
        "image": container.image,
        "imagePullPolicy": cluster.image_pull_policy or "IfNotPresent",
        "command": list(container.command),
        "args": list(container.args),
        "env": _environment(container, cluster),
        "resources": _resources(container.resources),
        "securityContext": _security(cluster.security_context),
        "volumeMounts": mounts,
    }
    spec: dict[str, Any] = {
        "serviceAccountName": account,
        "restartPolicy": "Never",
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [main],
        "volumes": volumes,
        "nodeSelector": dict(cluster.node_selector.labels),
        "tolerations": [_toleration(one) for one in cluster.tolerations],
        "imagePullSecrets": [{"name": secret.secret_name} for secret in cluster.image_pull_secret],
    }
    if cluster.active_deadline_seconds:
        spec["activeDeadlineSeconds"] = cluster.active_deadline_seconds
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": task, "namespace": namespace}, "spec": spec}


def _security(asked: Any) -> dict[str, Any]:
    given = {
        "runAsUser": asked.run_as_user if asked.HasField("run_as_user") else None,
        "runAsGroup": asked.run_as_group if asked.HasField("run_as_group") else None,
        "runAsNonRoot": asked.run_as_non_root if asked.HasField("run_as_non_root") else None,
    }
    theirs = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return {**theirs, **{key: value for key, value in given.items() if value is not None}}


def _resources(asked: Any) -> dict[str, Any]:
    requests = {"cpu": asked.resource_cpu_request, "memory": asked.resource_memory_request}
    limits = {"cpu": asked.resource_cpu_limit, "memory": asked.resource_memory_limit}
    if asked.HasField("accelerator"):
        limits[asked.accelerator.resource_type] = asked.accelerator.resource_count
    found = {"requests": requests, "limits": limits}
    return {kind: {name: value for name, value in values.items() if value} for kind, values in found.items()}


def _environment(container: Any, cluster: Any) -> list[dict[str, Any]]:
    plain = [{"name": variable.name, "value": variable.value} for variable in container.env]
    secrets = []
    for reference in cluster.secret_as_env:
        name = reference.secret_name_parameter.runtime_value.constant.string_value
        for pair in reference.key_to_env:
            key = {"name": name, "key": pair.secret_key, "optional": reference.optional}
            secrets.append({"name": pair.env_var, "valueFrom": {"secretKeyRef": key}})
    return [*plain, *secrets]


def _empty(mount: Any) -> dict[str, str]:
    given = {"medium": mount.medium, "sizeLimit": mount.size_limit}
    return {key: value for key, value in given.items() if value}


def _toleration(asked: Any) -> dict[str, Any]:
    given = {"key": asked.key, "operator": asked.operator, "value": asked.value, "effect": asked.effect}
    return {key: value for key, value in given.items() if value}
