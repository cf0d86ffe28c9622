"""A package for Kubeflow Pipelines as its API server and its compiler to Argo read it.

The rules are those of the source of Kubeflow Pipelines 2: backend/src/apiserver/template/v2_template.go,
backend/src/v2/compiler/{visitor.go,argocompiler/}, backend/src/v2/driver/k8s.go.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec import pipeline_spec_pb2

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
# Argo's templates and tasks are named after these.
_TASK = re.compile(r"[a-zA-Z0-9][-a-zA-Z0-9]*")
_PLACEHOLDER = re.compile(r"\{\{(.*?)\}\}")
_PARAMETER = re.compile(r"\$\.inputs\.parameters\['(\w+)'\]")
# Linux takes no longer string in an argument list.
LONGEST_ARGUMENT = 128 * 1024


@dataclass(frozen=True)
class Package:
    """Both documents, parsed; executors and what Kubernetes is asked for each, by executor label."""

    spec: Any
    executors: dict[str, Any]
    kubernetes: dict[str, Any]

    @property
    def tasks(self) -> dict[str, Any]:
        return dict(self.spec.root.dag.tasks)

    def label(self, task: str) -> str:
        return self.spec.components[self.tasks[task].component_ref.name].executor_label

    def container(self, task: str) -> Any:
        return self.executors[self.label(task)].container

    def cluster(self, task: str) -> Any:
        return self.kubernetes[self.label(task)]


def read_package(path: Path) -> Package:
    """Strictly: a field that the protos do not know raises json_format.ParseError."""
    documents = [document for document in yaml.safe_load_all(path.read_text()) if document]
    specs = [d for d in documents if "schemaVersion" in d]
    platforms = [d for d in documents if "platforms" in d]
    if len(documents) != 2 or len(specs) != 1 or len(platforms) != 1:
        raise ValueError(f"{path}: expected one PipelineSpec and one PlatformSpec")
    spec = json_format.ParseDict(specs[0], pipeline_spec_pb2.PipelineSpec())
    deployment = json_format.ParseDict(
        json_format.MessageToDict(spec.deployment_spec), pipeline_spec_pb2.PipelineDeploymentConfig()
    )
    platform = json_format.ParseDict(platforms[0], pipeline_spec_pb2.PlatformSpec())
    single = platform.platforms["kubernetes"]
    kubernetes = {
        label: json_format.ParseDict(json_format.MessageToDict(packed), KubernetesExecutorConfig())
        for label, packed in single.deployment_spec.executors.items()
    }
    return Package(spec, dict(deployment.executors), kubernetes)


def check_rules(package: Package) -> None:
    """What the API server and the compiler to Argo refuse raises ValueError."""
    spec = package.spec
    _require(spec.schema_version == "2.1.0", f"schema version {spec.schema_version}")
    _require(bool(_NAME.fullmatch(spec.pipeline_info.name)), f"pipeline name {spec.pipeline_info.name!r}")
    _require(spec.HasField("root") and spec.root.HasField("dag"), "no root")
    _require("root" not in spec.components, "component name root is reserved")
    for name, parameter in spec.root.input_definitions.parameters.items():
        _require(parameter.parameter_type != 0, f"parameter {name} has no type")
        _require(parameter.HasField("default_value") or parameter.is_optional, f"parameter {name} has no default")
    for name, task in package.tasks.items():
        _check_task(package, name, task)
    _require(len(order(package)) == len(package.tasks), "the tasks form a cycle")
    containers = [package.container(task).SerializeToString(deterministic=True) for task in package.tasks]
    # Argo's compiler keeps component specs under a hash of their container.
    _require(len(set(containers)) == len(containers), "two tasks have the same container")
    _require(set(package.kubernetes) <= set(package.executors), "Kubernetes settings of an unknown executor")


def _check_task(package: Package, name: str, task: Any) -> None:
    _require(bool(_TASK.fullmatch(name)), f"task name {name!r}")
    _require(task.component_ref.name in package.spec.components, f"{name}: unknown component")
    component = package.spec.components[task.component_ref.name]
    _require(component.executor_label in package.executors, f"{name}: unknown executor")
    kind = package.executors[component.executor_label].WhichOneof("spec")
    _require(kind == "container", f"{name}: executors of kind {kind} are not implemented")
    _require(set(task.dependent_tasks) <= set(package.tasks), f"{name}: waits for an unknown task")
    declared, given = component.input_definitions.parameters, task.inputs.parameters
    _require(set(declared) == set(given), f"{name}: parameters {sorted(given)}, declared {sorted(declared)}")
    container = package.executors[component.executor_label].container
    _require(bool(container.image), f"{name}: no image")
    for text in [*container.command, *container.args]:
        _require(len(text.encode()) < LONGEST_ARGUMENT, f"{name}: an argument is too long")
        for inner in _PLACEHOLDER.findall(text):
            parameter = _PARAMETER.fullmatch(inner)
            _require(parameter is not None and parameter[1] in declared, f"{name}: placeholder {inner}")
    policy = package.kubernetes[component.executor_label].image_pull_policy
    _require(policy in ("", "Always", "Never", "IfNotPresent"), f"{name}: image pull policy {policy}")


def order(package: Package) -> list[str]:
    """The tasks, each after those that it waits for; those in a cycle are left out."""
    done: list[str] = []
    while True:
        ready = [n for n, t in package.tasks.items() if n not in done and set(t.dependent_tasks) <= set(done)]
        if not ready:
            return done
        done += ready


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ValueError(problem)
