"""`flexunet --completion SHELL`."""

import click


def print_completion(context: click.Context, parameter: click.Parameter, shell: str | None) -> None:
    """Prints the script that lets a shell complete commands, options, presets, keys of the config and their values."""
    if shell is None or context.resilient_parsing:
        return
    from click.shell_completion import get_completion_class

    script = get_completion_class(shell)
    assert script is not None, "click completes the shells that the option allows"
    click.echo(script(context.command, {}, "flexunet", "_FLEXUNET_COMPLETE").source())
    context.exit()
