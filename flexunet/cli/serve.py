"""`flexunet serve`."""

import threading
from pathlib import Path

import click

from flexunet.cli.command import Command
from flexunet.cli.console import NO_LOG, captured_output
from flexunet.cli.options import PATH, VERIFY


@click.command(cls=Command, interrupted="the server has stopped")
@click.argument("model", type=PATH, metavar="MODEL_DIR")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--grpc-port", default=8500, show_default=True, type=click.IntRange(0, 65535), help="Port of gRPC; 0: a free one."
)
@click.option(
    "--rest-port", default=8501, show_default=True, type=click.IntRange(0, 65535), help="Port of REST; 0: a free one."
)
@VERIFY
@click.option("--docker", is_flag=True, help="Prints the command that starts TF Serving itself instead.")
def serve(model: Path, host: str, grpc_port: int, rest_port: int, public_key: Path | None, docker: bool) -> None:
    """Serves a model folder as TF Serving does, for development only.

    Examples:
      flexunet serve runs/mine/serving_model
      flexunet serve runs/mine/serving_model --docker
    """
    from flexunet.serving.docker import docker_command
    from flexunet.serving.versions import model_directory

    if public_key:
        from flexunet.serving.signing import verify

        verify(model_directory(model), public_key)
    if docker:
        click.echo(docker_command(model_directory(model), grpc_port, rest_port))
        return
    from flexunet.serving.server import Server
    from flexunet.serving.wire import MODEL_NAME

    with captured_output(NO_LOG) as console, Server(model, host, grpc_port, rest_port) as server:
        console.print(f"grpc://{host}:{server.grpc_port}  http://{host}:{server.rest_port}/v1/models/{MODEL_NAME}")
        console.print("a development server, not TF Serving: it does not reload or ask who calls; Ctrl-C stops it")
        threading.Event().wait()
