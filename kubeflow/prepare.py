"""The first step of a run: checks its parameters, makes the database ready, compiles the pipeline to the volume.

Every mistake of whoever started the run shows here, within seconds, and before a GPU is asked for.
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from flexunet.core.beam import prepare_beam
from flexunet.core.config.beam import BEAM_NODES
from flexunet.core.config.load import config_from
from flexunet.core.config.whole import Config
from flexunet.core.errors import UserError
from kubeflow import entry
from kubeflow.files import LONGEST_WAIT, Parameters, Run, close_to_others

if TYPE_CHECKING:
    from tfx.proto.orchestration import pipeline_pb2

_SOURCE: Final = "the package's config"


@click.command()
@click.option("--config", required=True, help="The compiled package's configuration, as JSON.")
@click.option("--nodes", required=True, help="The nodes of the compiled package, separated by commas.")
@click.option("--run-id", required=True, help="Kubeflow's id of the run.")
@click.option("--data", required=True, help="Folder of the records, below the volume's mount path.")
@click.option("--span", required=True, type=click.IntRange(min=0), help="The newest span to read; 0: of those there.")
@click.option("--overrides", required=True, help="JSON list of a.b=value.")
@click.option("--accept-refused", default="", help="Reason to push the model though the gate refuses it.")
def main(config: str, nodes: str, run_id: str, data: str, span: int, overrides: str, accept_refused: str) -> None:
    """Makes everything ready for the nodes of one run."""
    from flexunet.core.lock import locked
    from flexunet.dataset.compatible import check_data
    from flexunet.serving.signing import check_key

    changes = _changes(overrides)
    loaded = config_from(json.loads(config), _SOURCE, changes)
    _check_signing(loaded, config_from(json.loads(config), _SOURCE))
    settings, newest = loaded.kubeflow, span or None
    mount, run = Path(settings.mount_path), Run(Path(settings.runs), run_id)
    _check_volume(mount)
    check_key(loaded.serving.signing_key)
    prepare_beam(loaded.beam, nodes=BEAM_NODES)
    warning = check_data(mount / data, loaded, newest=newest)
    if warning:
        entry.console().print(f"warning: {warning}")
    as_set = loaded.model_dump_json(exclude_unset=True)
    parameters = Parameters(str(mount / data), newest, changes, accept_refused.strip(), as_set)
    _close(run.root)
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
    # `kubeflow={...}` as well, which replaces the section.
    compiled_in = [change for change in changes if change.partition("=")[0].partition(".")[0].strip() == "kubeflow"]
    if compiled_in:
        raise UserError(
            f"overrides: {compiled_in[0]} is compiled into the package, expected another key: compile again"
        )
    return changes


def _check_signing(changed: Config, compiled: Config) -> None:
    """An override must neither leave the Secret's key out nor name one on the volume, whatever section it replaces."""
    key = changed.serving.signing_key
    if key != compiled.serving.signing_key:
        raise UserError(
            f"overrides: serving.signing_key={key!r}: who signs is compiled into the package, expected no change: "
            "compile again, with kubeflow.signing_secret (docs/how-to/sign.md)"
        )


def _check_volume(mount: Path) -> None:
    if not os.access(mount, os.W_OK):
        what = "cannot be written" if mount.is_dir() else "no such folder"
        raise UserError(
            f"{mount}: {what} by user {os.getuid()}, group {os.getgid()}: mount the volume there and let them write"
        )


def _close(root: Path) -> None:
    mended, foreign = close_to_others(root, entry.UMASK)
    if mended:
        entry.console().print(f"{root}: everybody could write {mended} paths, now the runs' user alone")
    if foreign:
        entry.console().print(
            f"warning: {root}: everybody can write {foreign} paths that are not of user {os.getuid()}: "
            "their owner must take it away with `chmod -R o-w`"
        )


def _compile(run: Run, config: Config, parameters: Parameters, compiled_nodes: list[str]) -> None:
    from flexunet.history.database import connect
    from flexunet.history.pushes import record_rollbacks
    from kubeflow.database import prepare_database
    from pipeline import dag
    from pipeline.launch import compile_run

    paths = dag.Paths(parameters.data, str(run.root), parameters.span)
    pipeline = dag.create_pipeline(config, paths, None, accepted_refused=parameters.accepted_refused)
    ir = compile_run(pipeline, run.run_id)
    _check_nodes(ir, compiled_nodes)
    connection = prepare_database(os.environ, ir, run.root)
    record_rollbacks(connect(connection), paths.runs.serving)
    run.write(ir, parameters)


def _check_nodes(ir: "pipeline_pb2.Pipeline", compiled: list[str]) -> None:
    """An override can add a node or take one away; Kubeflow knows only those that were compiled."""
    now = [node.pipeline_node.node_info.id for node in ir.nodes]
    differing = sorted(set(now) ^ set(compiled))
    if differing:
        raise UserError(
            f"the pipeline and the package differ in {', '.join(differing)}: with these overrides, or in an image of "
            "another version, they are not the same; compile the package again with the override in its config"
        )


if __name__ == "__main__":
    entry.run(main)
