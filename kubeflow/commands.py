"""`flexunet kubeflow compile` and `submit`."""

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from flexunet.cli.command import CommandGroup
from flexunet.cli.console import NO_LOG, captured_output
from flexunet.cli.options import ACCEPT_REFUSED, CONFIG, FILE, SET
from flexunet.core.errors import Interrupted, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from kubeflow.submit import Kubeflow, RunParameters


@click.group(cls=CommandGroup)
def kubeflow() -> None:
    """Compiles the same pipeline for Kubeflow Pipelines, and runs it there: docs/how-to/kubeflow.md.

    Examples:
      flexunet kubeflow compile --config mine.toml --image registry.example/flexunet:1 --output package.yaml
      flexunet kubeflow submit package.yaml --host http://localhost:8080
    """


@kubeflow.command("compile")
@CONFIG
@SET
@click.option(
    "--image",
    required=True,
    metavar="I",
    help="Image built from kubeflow/Dockerfile, by the name that the cluster pulls.",
)
@click.option("--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="YAML file to write.")
def kubeflow_compile(config: str, overrides: tuple[str, ...], image: str, output: Path) -> None:
    """Writes the package for Kubeflow Pipelines 2.

    Examples:
      flexunet kubeflow compile --config mine.toml --image registry.example/flexunet:1 --output package.yaml
    """
    from flexunet.core.config.load import load_config

    loaded = load_config(config, overrides)
    if not output.parent.is_dir():
        raise UserError(f"{output.parent}: no such folder, expected one for {output.name}: make it, or name another")
    with captured_output(NO_LOG) as console:
        from kubeflow.package import Package, node_graph, write_package

        package = Package(loaded, image, node_graph(loaded))
        write_package(package, output)
        console.print(f"{output}: {len(package.upstream)} nodes, prepare and verdict, in the image {image}")


@kubeflow.command("submit")
@click.argument("package", type=FILE)
@click.option("--host", required=True, envvar="KF_PIPELINES_ENDPOINT", metavar="URL", help="URL of Kubeflow Pipelines.")
@click.option("--namespace", metavar="NAME", help="Namespace of your profile, where Kubeflow has several users.")
@click.option("--experiment", default="flexunet", show_default=True, help="Experiment that the run belongs to.")
@click.option(
    "--service-account", metavar="NAME", help="Service account of the run's pods.  [default: as in the package]"
)
@click.option("--name", help="Name of the run.  [default: the date and time]")
@click.option("--data", help="Folder of the records, below the volume's mount path.  [default: as in the package]")
@click.option(
    "--span", type=click.IntRange(min=1), metavar="N", help="The newest span to read.  [default: the newest there is]"
)
@SET
@ACCEPT_REFUSED
@click.option("--schedule", metavar="CRON", help="Schedule of a recurring run, seconds first, such as '0 0 3 * * *'.")
@click.option("--wait/--no-wait", default=True, help="Follows the run to its verdict.")
@click.option(
    "--poll-seconds",
    default=5.0,
    show_default=True,
    type=click.FloatRange(min=0.1),
    help="Seconds between two looks at the run.",
)
def kubeflow_submit(
    package: Path,
    host: str,
    namespace: str | None,
    experiment: str,
    service_account: str | None,
    name: str | None,
    schedule: str | None,
    wait: bool,
    poll_seconds: float,
    **parameters: "Unpack[RunParameters]",
) -> None:
    """Uploads PACKAGE, runs it and follows it; exits as `flexunet run` does: 2 and 4 if the model is refused.

    Examples:
      flexunet kubeflow submit package.yaml --host http://localhost:8080 --set train.epochs=20
      flexunet kubeflow submit package.yaml --host http://localhost:8080 --schedule "0 0 3 * * *"
    """
    with captured_output(NO_LOG) as console:
        from kubeflow import submit

        settings, names = submit.read_package(package)
        account = service_account or settings.service_account
        pipelines = submit.Kubeflow(submit.Target(host, namespace, experiment, account), poll_seconds)
        version = pipelines.upload(package)
        given = submit.run_parameters(**parameters)
        run_name = name or f"flexunet {datetime.datetime.now():%Y-%m-%d %H:%M:%S}"
        if schedule is not None:
            console.print(pipelines.link("recurringrun", pipelines.schedule(version, run_name, given, schedule)))
            return
        run_id = pipelines.start(version, run_name, given)
        console.print(pipelines.link("runs", run_id))
        if wait:
            _follow(pipelines, run_id, names, Path(settings.runs), console)


def _follow(pipelines: "Kubeflow", run_id: str, names: list[str], root: Path, console: "Console") -> None:
    """Tells how the run goes, and raises what its verdict says."""
    from kubeflow import outcome

    link = pipelines.link("runs", run_id)
    try:
        ended = pipelines.follow(run_id, names, console.print)
    except KeyboardInterrupt:
        raise Interrupted(f"the run goes on: {link}", resumes=False) from None
    words = pipelines.words(ended.run, names, root)
    outcome.judge(ended, names, words, link, console.print)
