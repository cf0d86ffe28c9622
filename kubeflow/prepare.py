"""The first step of a run: checks its parameters, makes the database ready, compiles the pipeline to the volume.

Every mistake of whoever started the run shows here, within seconds, and before a GPU is asked for.
"""

import json
import os
from pathlib import Path
from typing import Any

import click

from flexunet.core.config.load import config_from
from flexunet.core.config.whole import Config
from flexunet.core.errors import UserError
from kubeflow import entry
from kubeflow.files import LONGEST_WAIT, Parameters, Run


@click.command()
@click.option("--config", required=True, help="The compiled package's configuration, as JSON.")
@click.option("--nodes", required=True, help="The nodes of the compiled package, separated by commas.")
@click.option("--run-id", required=True, help="Kubeflow's id of the run.")
@click.option("--data", required=True, help="Records, below the volume's mount path.")
@click.option("--span", required=True, type=click.IntRange(min=0), help="The newest span to read; 0: of those there.")
@click.option("--overrides", required=True, help="JSON list of a.b=value.")
@click.option("--accept-refused", default="", help="Reason to push the model though the gate refuses it.")
def main(config: str, nodes: str, run_id: str, data: str, span: int, overrides: str, accept_refused: str) -> None:
    """Makes everything ready for the nodes of one run."""
    from flexunet.core.lock import locked
    from flexunet.dataset.compatible import check_data

    changes = _changes(overrides)
    loaded = config_from(json.loads(config), "the package's config", changes)
    settings, newest = loaded.kubeflow, span or None
    mount, run = Path(settings.mount_path), Run(Path(settings.mount_path) / settings.root, run_id)
    _check_volume(mount)
    warning = check_data(mount / data, loaded, newest=newest)
    if warning:
        entry.console().print(f"warning: {warning}")
    parameters = Parameters(str(mount / data), newest, changes, accept_refused.strip(), loaded.model_dump_json())
    with locked(run.root, wait_seconds=LONGEST_WAIT):
        _compile(run, loaded, parameters, nodes.split(","))
    entry.console().print(f"prepared {run.folder}: data {parameters.data}, overrides {changes or 'none'}")


def _changes(overrides: str) -> list[str]:
    try:
        changes = json.loads(overrides)
    except ValueError:
        changes = None
    if not isinstance(changes, list) or not all(isinstance(change, str) for change in changes):
        raise UserError(f"overrides: got {overrides}, expected a list such as ['train.epochs=20']")
    compiled_in = [change for change in changes if change.strip().startswith("kubeflow.")]
    if compiled_in:
        raise UserError(
            f"overrides: {compiled_in[0]} is compiled into the package, expected another key: compile again"
        )
    return changes


def _check_volume(mount: Path) -> None:
    if not os.access(mount, os.W_OK):
        what = "cannot be written" if mount.is_dir() else "no such folder"
        raise UserError(
            f"{mount}: {what} by user {os.getuid()}, group {os.getgid()}: mount the volume there and let them write"
        )


def _compile(run: Run, config: Config, parameters: Parameters, compiled_nodes: list[str]) -> None:
    from flexunet.core.beam import LOCAL_BEAM_ARGS
    from flexunet.history.pushes import record_rollbacks
    from kubeflow.database import open_database
    from pipeline import dag
    from pipeline.launch import compile_run

    paths = dag.Paths(parameters.data, str(run.root), parameters.span)
    pipeline = dag.create_pipeline(config, paths, None, LOCAL_BEAM_ARGS, accepted_refused=parameters.accepted_refused)
    ir = compile_run(pipeline, run.run_id)
    _check_nodes(ir, compiled_nodes)
    add_beam_args(ir, config)
    record_rollbacks(open_database(os.environ, ir, run.root).connection_config, paths.runs.serving)
    run.write(ir, parameters)


def _check_nodes(ir: Any, compiled: list[str]) -> None:
    """An override can add a node or take one away; Kubeflow knows only those that were compiled."""
    now = [node.pipeline_node.node_info.id for node in ir.nodes]
    differing = sorted(set(now) ^ set(compiled))
    if differing:
        raise UserError(
            f"the pipeline and the package differ in {', '.join(differing)}: with these overrides, or in an image of "
            "another version, they are not the same; compile the package again with the override in its config"
        )


def add_beam_args(ir: Any, config: Config) -> None:
    """Each node's own arguments for Beam, after those of all nodes, so that they count.

    Raises:
      UserError: for a node that does not run Beam.
    """
    from tfx.proto.orchestration import executable_spec_pb2, pipeline_pb2

    from flexunet.core.beam import beam_args

    deployment = pipeline_pb2.IntermediateDeploymentConfig()
    ir.deployment_config.Unpack(deployment)
    for name, packed in deployment.executor_specs.items():
        arguments, spec = config.kubeflow.node(name).beam_args, executable_spec_pb2.BeamExecutableSpec()
        if packed.Unpack(spec):
            # `beam_pipeline_args`, beside it, is written by TFX's compiler and read by nobody.
            ours = [placeholder.value.string_value for placeholder in spec.beam_pipeline_args_placeholders]
            del spec.beam_pipeline_args_placeholders[:]
            for argument in beam_args(arguments, ours):
                spec.beam_pipeline_args_placeholders.add().value.string_value = argument
            packed.Pack(spec)
        elif name in config.kubeflow.nodes and config.kubeflow.nodes[name].beam_args:
            raise UserError(f"kubeflow.nodes.{name}.beam_args: {name} does not run Beam, expected none: remove them")
    ir.deployment_config.Pack(deployment)


if __name__ == "__main__":
    entry.run(main)
