"""What a task asks of the cluster, from `[kubeflow]`, through kfp's own calls."""

from typing import Final

from kfp import dsl, kubernetes

from flexunet.core.config.kubeflow import KubeflowConfig, NodeConfig
from flexunet.history.database import DATABASE_VARIABLES, OPTIONAL_VARIABLES
from flexunet.serving.signing import PASSWORD_VARIABLE
from kubeflow.environment import GPUS_VARIABLE

# The root file system may be read-only; Beam, TensorFlow and TFX write here.
_SCRATCH: Final = "/tmp"  # noqa: S108  the container's own
_SIGNING: Final = "/var/run/secrets/flexunet/signing"
SIGNING_KEY: Final = f"{_SIGNING}/signing.pem"


def configure_task(task: dsl.PipelineTask, node: NodeConfig, cluster: KubeflowConfig) -> None:
    """Compute, placement, volume, identity and environment of one task."""
    _compute(task, node)
    _placement(task, node, cluster)
    _storage(task, node, cluster)
    _identity(task, cluster)
    _environment(task, node, cluster)


def give_signing_key(task: dsl.PipelineTask, secret: str) -> None:
    """The key as the file `SIGNING_KEY`, its password as the variable that the signing reads."""
    kubernetes.use_secret_as_volume(task, secret, _SIGNING)
    kubernetes.use_secret_as_env(task, secret, {"password": PASSWORD_VARIABLE}, optional=True)


def _compute(task: dsl.PipelineTask, node: NodeConfig) -> None:
    task.set_cpu_request(node.cpu).set_memory_request(node.memory).set_memory_limit(node.memory)
    if node.gpus:
        task.set_accelerator_type(node.gpu_resource).set_accelerator_limit(node.gpus)
    if node.timeout_seconds:
        kubernetes.set_timeout(task, node.timeout_seconds)


def _placement(task: dsl.PipelineTask, node: NodeConfig, cluster: KubeflowConfig) -> None:
    for label, value in node.node_selector.items():
        kubernetes.add_node_selector(task, label, value)
    for toleration in node.tolerations:
        # "" means any, which Kubernetes says by leaving it out.
        given = {key: value for key, value in toleration.model_dump().items() if value}
        kubernetes.add_toleration(task, **given)
    kubernetes.set_image_pull_policy(task, cluster.image_pull_policy)
    if cluster.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(cluster.image_pull_secrets))


def _storage(task: dsl.PipelineTask, node: NodeConfig, cluster: KubeflowConfig) -> None:
    kubernetes.mount_pvc(task, cluster.volume_claim, cluster.mount_path)
    kubernetes.empty_dir_mount(task, "scratch", _SCRATCH)
    if node.shared_memory:
        kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", "Memory", node.shared_memory)  # noqa: S108


def _identity(task: dsl.PipelineTask, cluster: KubeflowConfig) -> None:
    kubernetes.set_security_context(
        task, run_as_user=cluster.run_as_user, run_as_group=cluster.run_as_group, run_as_non_root=True
    )


def _environment(task: dsl.PipelineTask, node: NodeConfig, cluster: KubeflowConfig) -> None:
    # TensorFlow takes every GPU that it sees, also one that the cluster gave to another pod.
    own = {GPUS_VARIABLE: str(node.gpus)} if node.gpus else {"CUDA_VISIBLE_DEVICES": "-1"}
    for name, value in {"PYTHONUNBUFFERED": "1", "HOME": _SCRATCH, **own, **node.env}.items():
        task.set_env_variable(name, value)
    kubernetes.use_secret_as_env(task, cluster.database_secret, DATABASE_VARIABLES)
    kubernetes.use_secret_as_env(task, cluster.database_secret, OPTIONAL_VARIABLES, optional=True)
    for secret, variables in node.secrets.items():
        kubernetes.use_secret_as_env(task, secret, dict(variables))
