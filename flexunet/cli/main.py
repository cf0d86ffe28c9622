"""The `flexunet` command. Thin: a command is imported when it is looked at, and imports what it needs when it runs."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

import click

from flexunet.cli.command import SectionedGroup, spelled
from flexunet.cli.completion import print_completion
from flexunet.core.disk import words_of
from flexunet.core.errors import CommandError, Interrupted, UserError
from flexunet.core.install import how_to_install

SECTIONS: Final = {
    "Data": {"init": "flexunet.cli.init", "ingest": "flexunet.cli.ingest", "import": "flexunet.cli.imports:imports"},
    "Train": {
        "demo": "pipeline.cli.demo",
        "plan": "pipeline.cli.plan",
        "run": "pipeline.cli.run",
        "inspect": "pipeline.cli.inspect",
    },
    "Judge": {
        "evaluate": "pipeline.cli.evaluate",
        "report": "pipeline.cli.report",
        "study": "pipeline.cli.study",
    },
    "Serve": {
        "predict": "flexunet.cli.predict",
        "serve": "flexunet.cli.serve",
        "live": "flexunet.cli.live",
        "rollback": "pipeline.cli.rollback",
    },
    "Look back": {"runs": "pipeline.cli.runs", "lineage": "pipeline.cli.lineage", "clean": "pipeline.cli.clean"},
    "Cluster": {"kubeflow": "kubeflow.commands"},
    "This machine": {"doctor": "flexunet.cli.doctor"},
}


@click.group(
    cls=SectionedGroup,
    sections=SECTIONS,
    no_args_is_help=False,
)
@click.version_option(package_name="flexunet")
@click.option(
    "--completion",
    type=click.Choice(["bash", "zsh", "fish"]),
    is_eager=True,
    expose_value=False,
    callback=print_completion,
    help="Print the script for completion in this shell and exit.",
)
def cli() -> None:
    """Image segmentation on TFX: measured honestly, refused if it is bad, served if it is good.

    Examples:
      flexunet demo
      flexunet ingest photos records --config mine.toml
      flexunet run --config mine.toml --data records --root runs/mine
    """


def main(arguments: list[str] | None = None) -> None:
    """Entry point: runs a command and exits with the code of the contract."""
    _open_what_is_closed()
    code = exit_code(lambda: cli.main(args=arguments, prog_name="flexunet", standalone_mode=False), arguments)
    if code == Interrupted.exit_code:
        # Threads of Beam and TensorFlow would hold the process until they have done what nobody waits for any more.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _open_what_is_closed() -> None:
    """A stream that the shell closed (`>&-`) goes nowhere: else the next file that is opened would take its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - as long as the process


def exit_with(command: Callable[[], object]) -> NoReturn:
    """Runs a command, prints its error in one line and exits with the code of the contract."""
    sys.exit(exit_code(command))


def exit_code(command: Callable[[], object], arguments: list[str] | None = None) -> int:
    """Runs a command and gives the code of the contract; an error is printed in one line."""
    again = spelled(*(sys.argv[1:] if arguments is None else arguments))
    try:
        result = command()
    except Interrupted as stopped:
        return _fail(f"interrupted; {stopped}{f'; to go on: {again}' if stopped.resumes else ''}", stopped.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        return _fail(f"interrupted; to go on: {again}", Interrupted.exit_code)
    except CommandError as error:
        return _fail(str(error), error.exit_code)
    except click.ClickException as error:
        return _fail(_one_line(error), UserError.exit_code)
    except OSError as error:
        return _fail(words_of(error), UserError.exit_code)
    except ModuleNotFoundError as error:
        # Without a name it was raised by hand, and says by itself what is missing.
        module = (error.name or "").partition(".")[0]
        return _fail(
            f"{module} is not installed: {how_to_install(module)}" if module else str(error), UserError.exit_code
        )
    # click returns the exit code of --help and --version instead of raising.
    return result if isinstance(result, int) else 0


def _one_line(error: click.ClickException) -> str:
    help_command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "flexunet"
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        # click raises the whole help instead of an error.
        return f"Missing command: see {help_command} --help"
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
