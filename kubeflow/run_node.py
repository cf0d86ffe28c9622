"""The container of one TFX node: `python -m kubeflow.run_node --node Trainer --root ROOT --run-id ID`.

It may be killed at any moment and started again: a node that is done is left alone, what a killed attempt left half
written is removed, and Trainer goes on from its checkpoint. Exit codes are those of `flexunet`: 1 a mistake in what it
was given, 3 the node failed.
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flexunet.core.beam import prepare_beam
from flexunet.core.config.beam import BEAM_NODES
from flexunet.core.config.load import config_from
from flexunet.core.errors import NodeFailed, UserError
from flexunet.core.root import Root
from kubeflow import entry
from kubeflow.environment import GPUS_VARIABLE
from kubeflow.files import LONGEST_WAIT, Run

if TYPE_CHECKING:
    from tfx.orchestration import metadata
    from tfx.proto.orchestration import pipeline_pb2

    from pipeline.launch import NodeResult


@click.command()
@click.option("--node", "name", required=True, help="TFX's id of the node.")
@click.option("--root", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the runs.")
@click.option("--run-id", required=True, help="Kubeflow's id of the run.")
def main(name: str, root: Path, run_id: str) -> None:
    """Runs one node of a pipeline that the step prepare compiled."""
    _check_gpus(name)
    run = Run(root, run_id)
    ir = run.read_pipeline()

    from kubeflow import attempts
    from kubeflow.database import open_database
    from pipeline.cli.board import Board

    node = _find(ir, name)
    database = open_database(os.environ)
    done = attempts.finished(node, database)
    if done is None:
        _check_beam(name, run)
        attempts.clear_leftovers(ir, node, database)
        done = _run(ir, node, database, run)
    Board(entry.console()).ended(done)


def _check_beam(name: str, run: Run) -> None:
    """The job server was there when the run was prepared; that may be long ago."""
    if name in BEAM_NODES:
        config = config_from(json.loads(run.read_parameters().config), "the run's config")
        prepare_beam(config.beam, nodes=(name,))


def _find(ir: "pipeline_pb2.Pipeline", name: str) -> "pipeline_pb2.PipelineNode":
    nodes = {node.pipeline_node.node_info.id: node.pipeline_node for node in ir.nodes}
    if name not in nodes:
        raise UserError(f"--node {name}: not in this run's pipeline, expected one of {', '.join(nodes)}")
    return nodes[name]


def _run(
    ir: "pipeline_pb2.Pipeline", node: "pipeline_pb2.PipelineNode", database: "metadata.Metadata", run: Run
) -> "NodeResult":
    """Runs the node as the local runner does; while models are pushed, no rollback and no other run pushes."""
    from flexunet.core.lock import locked
    from kubeflow.attempts import results
    from pipeline.run import run_in_turn

    serving = Root(run.root).serving
    accepted_refused = run.read_parameters().accepted_refused
    if node.node_info.id != "Pusher":
        return run_in_turn(ir, node, database, {}, serving, accepted_refused)
    with locked(run.root, wait_seconds=LONGEST_WAIT):
        return run_in_turn(ir, node, database, results(ir, database), serving, accepted_refused)


def _check_gpus(name: str) -> None:
    """A node that was given GPUs and sees none would train for days on the CPU, and nobody would know.

    Raises:
      NodeFailed: another number of GPUs than the package asked for.
    """
    expected = int(os.environ.get(GPUS_VARIABLE, "0"))
    if expected == 0:
        return
    import tensorflow as tf

    found = len(tf.config.list_physical_devices("GPU"))
    if found != expected:
        raise NodeFailed(
            f"{name} sees {found} GPUs, expected {expected} (kubeflow.nodes.{name}.gpus): "
            "is the image the CUDA variant, and does the driver of the machine fit it?"
        )


if __name__ == "__main__":
    entry.run(main)
