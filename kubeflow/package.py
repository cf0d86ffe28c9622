"""The package for Kubeflow Pipelines: one container per TFX node, `prepare` before them and `verdict` after.

TFX's own runner writes packages that open-source Kubeflow cannot run: its resolvers are not implemented there, and
drivers of custom nodes never run. Here Kubeflow schedules, gives GPUs and secrets, and retries; inside each container
TFX's launcher does what it does on one machine. docs/decisions/0005-kubeflow.md
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from kfp import compiler, dsl

from flexunet.core.config.kubeflow import NodeConfig
from flexunet.core.config.load import ConfigError
from flexunet.core.config.whole import Config
from flexunet.core.disk import naming
from flexunet.core.errors import UserError
from kubeflow.resources import SIGNING_KEY, configure_task, give_signing_key

PIPELINE_NAME: Final = "flexunet"
PREPARE: Final = "Prepare"
VERDICT: Final = "Verdict"
# Prepare holds the key against what signed the versions that are there.
_SIGNS: Final = (PREPARE, "Pusher")
_LONGEST_ARGUMENT: Final = 128 * 1024
# Argo counts it from the start of the first attempt and retries no task that began earlier: a year is for ever. kfp
# 2.16.1 cuts what it is given to an hour, which a training outlasts (lifted later: kubeflow/pipelines 13452).
_RETRIED_FOR: Final = "31536000s"


@dataclass(frozen=True)
class Package:
    """What is compiled: `upstream` are the nodes of the TFX pipeline, in order, each with those it waits for."""

    config: Config
    image: str
    upstream: Mapping[str, Sequence[str]]


def node_graph(config: Config) -> dict[str, list[str]]:
    """Each node of the TFX pipeline and those it waits for, from the one `create_pipeline`."""
    from pipeline import dag
    from pipeline.launch import compile_run

    paths = dag.Paths("/nowhere", "/nowhere")
    # What a node is called and waits for depends neither on the code that it runs nor on a file that pods alone see.
    config = config.model_copy(update={"train": config.train.model_copy(update={"encoder_weights": ""})})
    ir = compile_run(dag.create_pipeline(config, paths, None, (), fingerprint=lambda modules: ""), "compile")
    return {n.pipeline_node.node_info.id: sorted(n.pipeline_node.upstream_nodes) for n in ir.nodes}


def write_package(package: Package, output: Path) -> None:
    """Writes PipelineSpec and PlatformSpec, two documents in one YAML file.

    Raises:
      UserError: the config names a node that there is not, or a key that no pod has, or cannot travel in an argument.
    """
    _check_names(package)
    _check_signing(package.config)
    _check_encoder(package.config)
    aside = output.with_name(f".{output.name}.incomplete.yaml")
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with naming(output):
            # kfp looks through the whole stack of its caller at each setting of a task: that of a thread is short.
            with ThreadPoolExecutor(1) as thread:
                thread.submit(_compile, package, aside).result()
            _retry_for_long(aside)
            aside.replace(output)
    finally:
        aside.unlink(missing_ok=True)


def _compile(package: Package, output: Path) -> None:
    compiler.Compiler().compile(_pipeline(package), str(output))


def _retry_for_long(compiled: Path) -> None:
    """Sets the time in the pipeline's document; the comments in front, kfp's summary for readers, stay."""
    lines = compiled.read_text(encoding="utf-8").splitlines(keepends=True)
    comments = "".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
    spec, *others = yaml.safe_load_all("".join(lines))
    for task in spec["root"]["dag"]["tasks"].values():
        if "retryPolicy" in task:
            task["retryPolicy"]["backoffMaxDuration"] = _RETRIED_FOR
    compiled.write_text(comments + yaml.safe_dump_all([spec, *others]), encoding="utf-8")


def task_name(node: str) -> str:
    """Kubeflow's name of a node's task: RecordGen is record-gen."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", node).lower()


def _pipeline(package: Package) -> Any:
    """A component, which kfp's decorator says is a function."""
    settings = package.config.kubeflow

    def flexunet(data: str = settings.data, span: int = 0, overrides: list = [], accept_refused: str = ""):  # noqa: B006
        parameters = {"data": data, "span": span, "overrides": overrides, "accept_refused": accept_refused}
        prepare = _task(package, PREPARE, _prepare_container(package), parameters)
        tasks: dict[str, dsl.PipelineTask] = {}
        for node, upstream in package.upstream.items():
            tasks[node] = _task(package, node, _node_container(package, node))
            tasks[node].after(prepare, *(tasks[name] for name in upstream))
        waited_for = {name for upstream in package.upstream.values() for name in upstream}
        last = [task for node, task in tasks.items() if node not in waited_for]
        _task(package, VERDICT, _verdict_container(package)).after(*last)

    return dsl.pipeline(
        flexunet, name=PIPELINE_NAME, description="From records to a served model: docs/how-to/kubeflow.md"
    )


def _task(
    package: Package,
    node: str,
    container: Callable[..., dsl.ContainerSpec],
    parameters: Mapping[str, object] | None = None,
) -> dsl.PipelineTask:
    """A task whose only way to fail the run for good is its own exit code; Kubeflow's cache would know no TFX state."""
    # KFP takes a component's name from its function and refuses the same twice.
    container.__name__ = task_name(node).replace("-", "_")
    task = dsl.container_component(container)(run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER, **(parameters or {}))
    task.set_caching_options(False).set_display_name(node)
    settings = package.config.kubeflow.node(node)
    configure_task(task, settings, package.config.kubeflow)
    if node in _SIGNS and package.config.kubeflow.signing_secret:
        give_signing_key(task, package.config.kubeflow.signing_secret)
    if node not in (PREPARE, VERDICT) and settings.retries:
        task.set_retry(settings.retries, f"{settings.retry_wait_seconds}s", 2.0)
    return task


def _prepare_container(package: Package) -> Callable[..., dsl.ContainerSpec]:
    config, nodes = _config_json(package.config), ",".join(package.upstream)

    def container(data: str, span: int, overrides: list, accept_refused: str, run_id: str):
        # Placeholders by now, whatever their types say.
        arguments: list[Any] = ["--config", config, "--nodes", nodes, "--run-id", run_id, "--data", data]
        arguments += ["--span", span, "--overrides", overrides, "--accept-refused", accept_refused]
        return dsl.ContainerSpec(image=package.image, command=["python", "-m", "kubeflow.prepare"], args=arguments)

    return container


def _node_container(package: Package, node: str) -> Callable[..., dsl.ContainerSpec]:
    def container(run_id: str):
        return dsl.ContainerSpec(
            image=package.image,
            command=["python", "-m", "kubeflow.run_node"],
            args=["--node", node, "--root", package.config.kubeflow.runs, "--run-id", run_id],
        )

    return container


def _verdict_container(package: Package) -> Callable[..., dsl.ContainerSpec]:
    def container(run_id: str):
        return dsl.ContainerSpec(
            image=package.image,
            command=["python", "-m", "kubeflow.verdict"],
            args=["--root", package.config.kubeflow.runs, "--run-id", run_id],
        )

    return container


def _config_json(config: Config) -> str:
    """Only what was set: the rest are defaults, and those of single nodes must stay recognizable as such.

    Raises:
      UserError: Argo would read a part of it as a placeholder, or it is longer than Linux takes as one argument.
    """
    if config.kubeflow.signing_secret:
        config = config.model_copy(update={"serving": config.serving.model_copy(update={"signing_key": SIGNING_KEY})})
    text = config.model_dump_json(exclude_unset=True)
    if "{{" in text:
        raise UserError("the config holds '{{', which Kubeflow would replace, expected none: write the value otherwise")
    if len(text.encode()) >= _LONGEST_ARGUMENT:
        raise UserError(f"the config has {len(text.encode())} bytes as JSON, expected less than {_LONGEST_ARGUMENT}")
    return text


def _check_signing(config: Config) -> None:
    """One machine's file is on no other; a key on the volume could be read by whoever can write versions there."""
    if config.serving.signing_key and not config.kubeflow.signing_secret:
        raise ConfigError(
            f"serving.signing_key: {config.serving.signing_key} is in no pod, expected kubeflow.signing_secret, the "
            "name of a Secret with the key: docs/how-to/sign.md"
        )


def _check_encoder(config: Config) -> None:
    """Prepare sees whether the file is there, and keys the training by its content."""
    file, mount = config.train.encoder_weights, config.kubeflow.mount_path
    if file and not Path(file).is_relative_to(mount):
        raise ConfigError(
            f"train.encoder_weights: {file} is in no pod, expected a path below kubeflow.mount_path, {mount}: "
            "docs/how-to/kubeflow.md"
        )


def _check_names(package: Package) -> None:
    known = [*package.upstream, PREPARE, VERDICT]
    for name, settings in package.config.kubeflow.nodes.items():
        if name not in known:
            raise ConfigError(f"kubeflow.nodes.{name}: no such node, expected one of {', '.join(known)}")
        _check_kind(name, settings)


def _check_kind(name: str, settings: NodeConfig) -> None:
    if name in (PREPARE, VERDICT) and "retries" in settings.model_fields_set:
        raise ConfigError(f"kubeflow.nodes.{name}.retries: {name} is never retried: remove it")
