"""The `flexunet` command. Thin: every command imports what it needs when it runs, so that --help takes no time."""

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

import click
from click.shell_completion import CompletionItem, get_completion_class

from flexunet.cli.command import CommandGroup, json_option
from flexunet.core.errors import Interrupted, ModelRefused, NodeFailed, ServingRefused, UserError


def _presets(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from flexunet.core.config.load import preset_names

    names = [CompletionItem(name) for name in preset_names() if name.startswith(incomplete)]
    # The shell completes files by itself when it is told their type.
    return [*names, CompletionItem(incomplete, type="file")]


def _keys(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from flexunet.core.config.load import key_names

    return [f"{key}=" for key in key_names() if key.startswith(incomplete)]


def _not_blank(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not value.strip():
        raise click.BadParameter("empty, expected a reason that stays on record", context, parameter)
    return value


_CONFIG = click.option(
    "--config", required=True, metavar="C", help="TOML file, or the name of a preset.", shell_complete=_presets
)
_SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="A.B=V",
    help="Overrides a key of the config; may be given again.",
    shell_complete=_keys,
)
_INTERRUPTED: Final = 130
_RESUMES = "finished nodes stay in the cache, and a training goes on after its last finished epoch"
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_ROOT = click.option("--root", required=True, type=click.Path(path_type=Path), help="Folder of the runs.")


@click.group(cls=CommandGroup, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="flexunet")
def cli() -> None:
    """Image segmentation on TFX: measured honestly, refused if it is bad, served if it is good.

    Examples:
      flexunet demo
      flexunet ingest photos records --config mine.toml
      flexunet run --config mine.toml --data records --root runs/mine
    """


@cli.command(interrupted=_RESUMES)
@click.option(
    "--root", default="runs/demo", type=click.Path(path_type=Path), show_default=True, help="Folder of the run."
)
@_SET
@json_option
def demo(root: Path, overrides: tuple[str, ...]) -> None:
    """Runs the whole pipeline on generated steel surfaces.

    Examples:
      flexunet demo
      flexunet demo --root /tmp/demo --set train.epochs=5
    """
    from pipeline.cli.commands import run_demo

    run_demo(root, overrides)


@cli.command(interrupted="no version was written in part")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@_CONFIG
@_SET
@click.option("--check", is_flag=True, help="Checks everything, writes nothing.")
@click.option("--splits", type=click.Choice(["keep", "regroup"]), help="For a source that has splits of its own.")
@click.option("--skip-bad", is_flag=True, help="Leaves bad pairs out; they are counted and listed.")
@click.option("--metadata", type=click.Path(path_type=Path), metavar="CSV", help="Columns for slices; one is `stem`.")
@click.option("--span", default=1, show_default=True, type=click.IntRange(min=1), help="Adds new data beside the old.")
@json_option
def ingest(source: Path, out: Path, config: str, overrides: tuple[str, ...], **options: Any) -> None:
    """Turns folders of images and masks (SOURCE) into records (OUT).

    Examples:
      flexunet ingest photos records --config mine.toml --check
      flexunet ingest photos records --config mine.toml
      flexunet ingest new-photos records --config mine.toml --span 2 --metadata cameras.csv
    """
    from pipeline.cli.commands import run_ingest

    run_ingest(source, out, config, overrides, **options)


@cli.command(interrupted=_RESUMES)
@_CONFIG
@click.option("--data", required=True, type=click.Path(path_type=Path), help="OUT of `flexunet ingest`.")
@_ROOT
@_SET
@click.option("--beam-arg", "beam_args", multiple=True, help="Passed on to Apache Beam, such as --runner=FlinkRunner.")
@click.option(
    "--accept-refused", metavar="REASON", callback=_not_blank, help="Pushes the model though the gate refuses it."
)
@json_option
def run(
    config: str,
    data: Path,
    root: Path,
    overrides: tuple[str, ...],
    beam_args: tuple[str, ...],
    accept_refused: str | None,
) -> None:
    """Trains, measures, judges, and pushes the model if it is good enough.

    Examples:
      flexunet run --config mine.toml --data records --root runs/mine
      flexunet run --config mine.toml --data records --root runs/mine --set train.epochs=20 --json
      flexunet run --config mine.toml --data records --root runs/mine --accept-refused "the line stands still"
    """
    from pipeline.cli.commands import run_pipeline

    run_pipeline(config, data, root, overrides, beam_args, accept_refused or "")


@cli.command()
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL_DIR")
@click.argument("data", type=click.Path(path_type=Path))
@_CONFIG
@_SET
@click.option("--baseline", type=click.Path(path_type=Path), metavar="MODEL_DIR", help="A model to compare with.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for metrics.json and details.json.")
@json_option
def evaluate(
    model: Path, data: Path, config: str, overrides: tuple[str, ...], baseline: Path | None, out: Path | None
) -> None:
    """Measures a model on the test split of DATA (OUT of ingest) as the pipeline does; exits with 2 if it is refused.

    Examples:
      flexunet evaluate runs/mine/serving_model records --config mine.toml
      flexunet evaluate new-model records --config mine.toml --baseline runs/mine/serving_model --json
    """
    from pipeline.cli.commands import run_evaluate

    run_evaluate(model, data, config, overrides, baseline, out)


@cli.command(interrupted="masks that were written stay, areas.csv is not whole")
@click.argument("model", metavar="MODEL_DIR_or_URL")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE_OR_DIR...")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for masks, overlays, areas.csv.")
@click.option("--config", metavar="C", help="Classes and colours; needed for a URL.")
@click.option("--tiled", is_flag=True, help="Cuts large images into overlapping tiles of the model's size.")
@click.option("--concurrency", default=4, show_default=True, type=click.IntRange(1, 64), help="Images under way.")
@click.option(
    "--deadline", default=60.0, show_default=True, type=click.FloatRange(min=0, min_open=True), help="Seconds."
)
@click.option("--model-name", default="flexunet", show_default=True, help="The server's name of the model.")
@click.option("--version", type=click.IntRange(min=1), metavar="N", help="The server's version; else the newest.")
@click.option("--ca", "certificate_authority", type=_FILE, help="PEM file, for grpcs and https; else the system's.")
@click.option("--cert", "certificate", type=_FILE, help="PEM file of this client's certificate.")
@click.option("--key", type=_FILE, help="PEM file of its key.")
@json_option
def predict(model: str, images: tuple[Path, ...], out: Path, **options: Any) -> None:
    """Writes a coloured mask, an overlay and areas for each image; asks a model folder, or a server by its URL.

    Examples:
      flexunet predict runs/mine/serving_model photos --out predictions
      flexunet predict grpc://localhost:8500 photos --out predictions --config mine.toml
      flexunet predict runs/mine/serving_model wide-strip.png --out predictions --tiled
    """
    from pipeline.cli.commands import run_predict

    run_predict(model, images, out, **options)


@cli.command(interrupted="the server has stopped")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL_DIR")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--grpc-port", default=8500, show_default=True, type=click.IntRange(0, 65535), help="0: a free one.")
@click.option("--rest-port", default=8501, show_default=True, type=click.IntRange(0, 65535), help="0: a free one.")
@click.option("--docker", is_flag=True, help="Prints the command that starts TF Serving itself instead.")
def serve(model: Path, host: str, grpc_port: int, rest_port: int, docker: bool) -> None:
    """Serves a model folder as TF Serving does, for development only.

    Examples:
      flexunet serve runs/mine/serving_model
      flexunet serve runs/mine/serving_model --docker
    """
    from pipeline.cli.commands import run_serve

    run_serve(model, host, grpc_port, rest_port, docker)


@cli.command()
@_ROOT
@click.option(
    "--to", type=click.IntRange(min=1), metavar="N", help="The version to restore, instead of the one before."
)
@click.option("--keep", type=click.IntRange(min=2), help="Newest versions that stay.  [default: as at the last push]")
@json_option
def rollback(root: Path, to: int | None, keep: int | None) -> None:
    """Serves an earlier model again, under a higher version number.

    Examples:
      flexunet rollback --root runs/mine
      flexunet rollback --root runs/mine --to 3
    """
    from pipeline.cli.commands import run_rollback

    run_rollback(root, to, keep)


@cli.command()
@_CONFIG
@_SET
@click.option(
    "--batch", type=click.IntRange(min=1), help="Images of the step whose memory is told.  [train.batch_size]"
)
@click.option("--diagram", type=click.Path(path_type=Path), metavar="FILE", help="Draws the levels: PNG, SVG or PDF.")
@json_option
def inspect(config: str, overrides: tuple[str, ...], batch: int | None, diagram: Path | None) -> None:
    """Tells layers, parameters, memory and multiply-accumulates of the model of a config.

    Examples:
      flexunet inspect --config neu-seg --set model.base_filters=16
      flexunet inspect --config synthetic-neu-seg --diagram model.svg
    """
    from pipeline.cli.commands import run_inspect

    run_inspect(config, overrides, batch, diagram)


@cli.group()
def kubeflow() -> None:
    """Compiles the same pipeline for Kubeflow Pipelines, and runs it there: docs/how-to/kubeflow.md.

    Examples:
      flexunet kubeflow compile --config mine.toml --image registry.example/flexunet:1 --output package.yaml
      flexunet kubeflow submit package.yaml --host http://localhost:8080
    """


@kubeflow.command("compile")
@_CONFIG
@_SET
@click.option("--image", required=True, metavar="I", help="Image of kubeflow/Dockerfile, where the cluster finds it.")
@click.option("--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="YAML file to write.")
def kubeflow_compile(config: str, overrides: tuple[str, ...], image: str, output: Path) -> None:
    """Writes the package for Kubeflow Pipelines 2.

    Examples:
      flexunet kubeflow compile --config mine.toml --image registry.example/flexunet:1 --output package.yaml
    """
    from flexunet.cli.checkout import kubeflow_module

    kubeflow_module("commands").run_compile(config, overrides, image, output)


@kubeflow.command("submit")
@click.argument("package", type=_FILE)
@click.option("--host", required=True, envvar="KF_PIPELINES_ENDPOINT", metavar="URL", help="Kubeflow Pipelines.")
@click.option("--namespace", metavar="NAME", help="Of your profile, where Kubeflow has several users.")
@click.option("--experiment", default="flexunet", show_default=True, help="Groups runs on Kubeflow's pages.")
@click.option("--service-account", metavar="NAME", help="Who the run's pods are.  [default: as in the package]")
@click.option("--name", help="Of the run.  [default: the date and time]")
@click.option("--data", help="Records, below the volume's mount path.  [default: as in the package]")
@click.option(
    "--span", type=click.IntRange(min=1), metavar="N", help="The newest span to read.  [default: the newest there is]"
)
@_SET
@click.option(
    "--accept-refused", metavar="REASON", callback=_not_blank, help="Pushes the model though the gate refuses it."
)
@click.option("--schedule", metavar="CRON", help="Runs again and again instead: seconds first, such as '0 0 3 * * *'.")
@click.option("--wait/--no-wait", default=True, help="Follows the run to its verdict.")
@click.option("--poll-seconds", default=5.0, show_default=True, type=click.FloatRange(min=0.1), help="While it waits.")
def kubeflow_submit(package: Path, overrides: tuple[str, ...], **options: Any) -> None:
    """Uploads PACKAGE, runs it and follows it; exits as `flexunet run` does: 2 and 4 if the model is refused.

    Examples:
      flexunet kubeflow submit package.yaml --host http://localhost:8080 --set train.epochs=20
      flexunet kubeflow submit package.yaml --host http://localhost:8080 --schedule "0 0 3 * * *"
    """
    from flexunet.cli.checkout import kubeflow_module

    kubeflow_module("commands").run_submit(package, overrides=list(overrides), **options)


@cli.command()
@_ROOT
@click.option("--against", metavar="RUN", help="Compares with another run: its id, or how that begins, or a folder.")
@click.option("--no-open", is_flag=True, help="Only writes the page; it opens by itself on a desktop.")
def report(root: Path, against: str | None, no_open: bool) -> None:
    """Rebuilds and opens the report of the last run.

    Examples:
      flexunet report --root runs/mine
      flexunet report --root runs/mine --against 2026-11-24T09
    """
    from flexunet.cli.history_commands import run_report

    run_report(root, against, not no_open)


@cli.command()
@_ROOT
@json_option
def runs(root: Path) -> None:
    """Lists the runs of a folder, the newest first: verdict, score, version.

    Examples:
      flexunet runs --root runs/mine
      flexunet runs --root runs/mine --json
    """
    from flexunet.cli.history_commands import run_runs

    run_runs(root)


@cli.command()
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL_DIR")
@json_option
def lineage(model: Path) -> None:
    """Tells which data, configuration, code and baseline made a pushed version.

    Examples:
      flexunet lineage runs/mine/serving_model/3
    """
    from flexunet.cli.history_commands import run_lineage

    run_lineage(model)


@cli.command()
@_ROOT
@click.option("--keep", required=True, type=click.IntRange(min=1), metavar="N", help="Newest finished runs that stay.")
@click.option("--dry-run", is_flag=True, help="Says what would be freed, removes nothing.")
@json_option
def clean(root: Path, keep: int, dry_run: bool) -> None:
    """Frees the disk of old runs; what a pushed version, the baseline or a kept run needs stays.

    Examples:
      flexunet clean --root runs/mine --keep 3 --dry-run
      flexunet clean --root runs/mine --keep 3
    """
    from flexunet.cli.history_commands import run_clean

    run_clean(root, keep, dry_run)


@cli.command()
@json_option
def doctor() -> None:
    """Checks this machine: versions, missing parts, memory, disk, GPU, and says what to do about each.

    Examples:
      flexunet doctor
    """
    from pipeline.cli.commands import run_doctor

    run_doctor()


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Prints the script that lets a shell complete commands, options, presets and keys of the config.

    Examples:
      eval "$(flexunet completion bash)"
      flexunet completion fish > ~/.config/fish/completions/flexunet.fish
    """
    script = get_completion_class(shell)
    assert script is not None, "click completes the shells that the argument allows"
    click.echo(script(cli, {}, "flexunet", "_FLEXUNET_COMPLETE").source())


def main(arguments: list[str] | None = None) -> None:
    """Entry point: runs a command and exits with the code of the contract."""
    code = _exit_code(lambda: cli.main(args=arguments, prog_name="flexunet", standalone_mode=False), arguments)
    if code == _INTERRUPTED:
        # Threads of Beam and TensorFlow would hold the process until they have done what nobody waits for any more.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def exit_with(command: Callable[[], Any]) -> NoReturn:
    """Runs a command, prints its error in one line and exits with the code of the contract."""
    sys.exit(_exit_code(command))


def _exit_code(command: Callable[[], Any], arguments: list[str] | None = None) -> int:
    again = shlex.join(["flexunet", *(sys.argv[1:] if arguments is None else arguments)])
    try:
        result = command()
    except Interrupted as stopped:
        return _fail(f"interrupted; {stopped}; to go on: {again}", _INTERRUPTED)
    except (click.exceptions.Abort, KeyboardInterrupt):
        return _fail(f"interrupted; to go on: {again}", _INTERRUPTED)
    except click.ClickException as error:
        return _fail(_one_line(error), 1)
    except UserError as error:
        return _fail(str(error), 1)
    except ModelRefused as error:
        return _fail(str(error), 2)
    except NodeFailed as error:
        return _fail(str(error), 3)
    except ServingRefused as error:
        return _fail(str(error), 4)
    except OSError as error:
        return _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 1)
    except ModuleNotFoundError as error:
        return _fail(f"{error.name} is not installed, expected the extra `pipeline`: install flexunet[pipeline]", 1)
    # click returns the exit code of --help and --version instead of raising.
    return result if isinstance(result, int) else 0


def _one_line(error: click.ClickException) -> str:
    help_command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "flexunet"
    if isinstance(error, click.exceptions.NoSuchOption | click.exceptions.NoSuchCommand) and error.possibilities:
        # click puts its guess into brackets and a sentence of its own.
        message = f"{error.message.rstrip('.')}; did you mean {' or '.join(error.possibilities)}?"
        return f"{message} See {help_command} --help"
    return f"{' '.join(error.format_message().split()).rstrip('.')}: see {help_command} --help"


def _fail(message: str, code: int) -> int:
    click.echo("\n".join(f"error: {line}" for line in message.splitlines()), err=True)
    return code


if __name__ == "__main__":
    main()
