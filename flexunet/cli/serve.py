"""`flexunet serve`."""

import functools
import threading
from pathlib import Path

import click

from flexunet.cli.command import Command
from flexunet.cli.console import NO_LOG, captured_output
from flexunet.cli.options import FILE, PATH, PORT, VERIFY


@click.command(cls=Command, interrupted="the server has stopped")
@click.argument("model", type=PATH, metavar="MODEL_DIR")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--grpc-port", default=8500, show_default=True, type=PORT, help="Port of gRPC; 0: a free one.")
@click.option("--rest-port", default=8501, show_default=True, type=PORT, help="Port of REST; 0: a free one.")
@VERIFY
@click.option(
    "--model-config",
    type=FILE,
    help="Serves what this file of TF Serving's names, and reads it again every second: `flexunet live canary`.",
)
@click.option("--docker", is_flag=True, help="Prints the command that starts TF Serving itself instead.")
def serve(
    model: Path,
    host: str,
    grpc_port: int,
    rest_port: int,
    public_key: Path | None,
    model_config: Path | None,
    docker: bool,
) -> None:
    """Serves a model folder as TF Serving does, for development only.

    Examples:
      flexunet serve runs/mine/serving_model
      flexunet serve runs/mine/serving_model --model-config runs/mine/serving_model/models.config
      flexunet serve runs/mine/serving_model --docker
    """
    from flexunet.serving.docker import docker_command
    from flexunet.serving.signing import verify
    from flexunet.serving.versions import model_directory

    check = functools.partial(verify, public_key=public_key) if public_key else lambda folder: None
    if docker:
        folder = model_directory(model)
        command = docker_command(folder, grpc_port, rest_port, model_config)
        for version in _followed(folder, model_config):
            check(version)
        click.echo(command)
        return
    from flexunet.serving.loaded import ConfigFile
    from flexunet.serving.server import Server
    from flexunet.serving.wire import MODEL_NAME

    source = model if model_config is None else ConfigFile(model_config)
    with captured_output(NO_LOG) as console, Server(source, host, grpc_port, rest_port, check=check) as server:
        console.print(f"grpc://{host}:{server.grpc_port}  http://{host}:{server.rest_port}/v1/models/{MODEL_NAME}")
        reloads = f"only what {model_config} names" if model_config else "nothing"
        console.print(
            f"a development server, not TF Serving: it reloads {reloads} and asks nobody who they are; Ctrl-C stops it"
        )
        threading.Event().wait()


def _followed(folder: Path, model_config: Path | None) -> list[Path]:
    """What TF Serving begins with: the versions that the file beside them names, or the newest of them."""
    from flexunet.serving.model_config import read_named
    from flexunet.serving.versions import newest_version

    if not folder.name.isdigit():
        return [folder]
    named = read_named(folder.parent) if model_config else None
    if named:
        return [folder.parent / str(number) for number in named.versions]
    return [newest_version(folder.parent) or folder]
