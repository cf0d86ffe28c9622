"""The settings of `[kubeflow]`: what a cluster gives to each node. Only the Reporter reads them, to show them."""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from flexunet.core.config.section import Section

# Names that Kubernetes takes for objects, variables and amounts.
ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
SecretKey = Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$")]
Cpu = Annotated[str, Field(pattern=r"^([0-9]+(\.[0-9]+)?|[1-9][0-9]*m)$")]
Memory = Annotated[str, Field(pattern=r"^[1-9][0-9]*(Ki|Mi|Gi|Ti|K|M|G|T)?$")]

# Set by the package itself: which GPUs a node sees, where ML Metadata is.
RESERVED_VARIABLES: Final = ("CUDA_VISIBLE_DEVICES", "FLEXUNET_")


class Toleration(Section):
    """A taint of cluster nodes that a node of the pipeline may run on."""

    key: str = Field(default="", description='Key of the taint; "": any key.')
    operator: Literal["Exists", "Equal"] = Field(
        default="Exists", description="Comparison with the taint's value; Exists: any value."
    )
    value: str = Field(default="", description="Value of the taint, for operator = 'Equal'.")
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = Field(
        default="", description='Effect of the taint; "": any effect.'
    )

    @model_validator(mode="after")
    def _value_fits_operator(self) -> Self:
        if self.operator == "Exists" and self.value:
            raise ValueError(f"value is {self.value!r} with operator 'Exists', expected none; use operator = 'Equal'")
        if self.operator == "Equal" and not self.key:
            raise ValueError("key is empty with operator 'Equal', expected the taint's key")
        return self


class NodeConfig(Section):
    """What one node of the pipeline gets."""

    cpu: Cpu = Field(
        default="1", description="Requested CPU cores; there is no limit, which would only slow the node down."
    )
    memory: Memory = Field(default="4Gi", description="Memory, both requested and limit.")
    gpus: int = Field(
        default=0, ge=0, le=16, description="Number of GPUs, all of one machine; 0 also hides those that are there."
    )
    gpu_resource: str = Field(default="nvidia.com/gpu", min_length=1, description="Name of the cluster's GPU resource.")
    shared_memory: Memory | None = Field(
        default=None, description="Size of /dev/shm; unset: the container default of 64 MB."
    )
    node_selector: dict[str, str] = Field(
        default_factory=dict, description="Labels that a cluster node must have to run this node."
    )
    tolerations: tuple[Toleration, ...] = Field(default=(), description="Taints of cluster nodes that are tolerated.")
    timeout_seconds: int | None = Field(default=None, ge=1, description="Time limit of one attempt; unset: none.")
    retries: int = Field(
        default=2, ge=0, le=100, description="Number of times that a failed or killed node is started again."
    )
    retry_wait_seconds: int = Field(
        default=30, ge=0, le=3600, description="Wait before the first retry; doubled after each attempt."
    )
    env: dict[VariableName, str] = Field(
        default_factory=dict, description="Additional environment variables of the container."
    )
    secrets: dict[ObjectName, dict[SecretKey, VariableName]] = Field(
        default_factory=dict, description="Keys of Kubernetes secrets as environment: {secret = {key = 'VARIABLE'}}."
    )

    @model_validator(mode="after")
    def _variables_are_free(self) -> Self:
        for name in [*self.env, *(variable for keys in self.secrets.values() for variable in keys.values())]:
            if name.startswith(RESERVED_VARIABLES):
                raise ValueError(f"{name} is set by the package itself, expected another variable: remove it")
        return self


# What differs from node to node before anybody configures it. Only training needs a GPU, runs for hours, and shares
# memory between GPUs.
_TRAINING: Final = NodeConfig(cpu="4", memory="16Gi", gpus=1, shared_memory="2Gi", retries=4)
_PER_NODE: Final = {"Trainer": _TRAINING, "Tuner": _TRAINING}


class KubeflowConfig(Section):
    """Where a cluster keeps what the pipeline reads and writes, and what each node gets: docs/how-to/kubeflow.md."""

    volume_claim: ObjectName = Field(
        default="flexunet-data", description="Persistent volume claim, ReadWriteMany, that every node mounts."
    )
    mount_path: str = Field(
        default="/mnt/flexunet",
        pattern=r"^(/[A-Za-z0-9._-]+)+$",
        description="Path where every node mounts the volume.",
    )
    data: str = Field(default="records", min_length=1, description="Default folder of the records, below mount_path.")
    root: str = Field(default="runs/main", min_length=1, description="Folder of the runs, below mount_path.")
    database_secret: ObjectName = Field(
        default="flexunet-metadata", description="Secret with the address and password of ML Metadata's database."
    )
    signing_secret: ObjectName | None = Field(
        default=None,
        description="Secret with the private key `signing.pem`, and its `password` if it has one, which Prepare and "
        "Pusher get in place of serving.signing_key; unset: nothing is signed.",
    )
    service_account: ObjectName = Field(default="flexunet-pipeline", description="Service account of a run's pods.")
    image_pull_secrets: tuple[ObjectName, ...] = Field(default=(), description="Secrets of the image registry.")
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = Field(
        default="IfNotPresent", description="Kubernetes' pull policy of the image."
    )
    run_as_user: int = Field(default=65532, ge=1, description="User id of the containers; never root.")
    run_as_group: int = Field(default=65532, ge=1, description="Group id of the containers; never root's.")
    defaults: NodeConfig = Field(
        default_factory=NodeConfig, description="Resources of every node that `nodes` does not name, key by key."
    )
    nodes: dict[str, NodeConfig] = Field(default_factory=dict, description="Resources by node: Trainer, Transform, ...")

    @model_validator(mode="after")
    def _stays_on_the_volume(self) -> Self:
        for key in ("data", "root"):
            path = getattr(self, key)
            if path.startswith("/") or ".." in path.split("/"):
                raise ValueError(f"{key} is {path!r}, expected a path below mount_path, such as 'runs/main'")
        return self

    @property
    def runs(self) -> str:
        """The folder of the runs, as every node sees it."""
        return f"{self.mount_path}/{self.root}"

    def node(self, name: str) -> NodeConfig:
        """What a node gets: its own keys, else those of `defaults`, else ours."""
        layers = (_PER_NODE.get(name, NodeConfig()), self.defaults, self.nodes.get(name, NodeConfig()))
        given = [layer.model_dump(exclude_unset=True) for layer in layers]
        return NodeConfig(**{key: value for layer in given for key, value in layer.items()})
