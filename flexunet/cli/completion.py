"""`flexunet completion`."""

import click
from click.shell_completion import get_completion_class

from flexunet.cli.command import Command


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Prints the script that lets a shell complete commands, options, presets, keys of the config and their values.

    Examples:
      eval "$(flexunet completion bash)"
      flexunet completion fish > ~/.config/fish/completions/flexunet.fish
    """
    script = get_completion_class(shell)
    assert script is not None, "click completes the shells that the argument allows"
    click.echo(script(context.find_root().command, {}, "flexunet", "_FLEXUNET_COMPLETE").source())
