"""What all commands of `flexunet` share: --verbose, --json, examples in --help, a word about Ctrl-C."""

import re
from collections.abc import Callable
from typing import Any, Final

import click

from flexunet.cli.options import JSON, VERBOSE
from flexunet.core.errors import Interrupted

_HEADING: Final = "Examples:"
_EXAMPLES: Final = re.compile(r"^\s*Examples?:", re.MULTILINE)


class Command(click.Command):
    """A command whose docstring may end in `Example:` and a command line, or `Examples:` and a line for each.

    Args:
      interrupted: what Ctrl-C leaves behind, in words.
    """

    def __init__(self, *arguments: Any, interrupted: str = "nothing was changed", **attributes: Any) -> None:
        text, examples = split_examples(attributes.pop("help", None) or "")
        attributes["params"] = [*(attributes.get("params") or []), _verbose()]
        super().__init__(*arguments, help=text, **attributes)
        self.examples, self._interrupted = examples, interrupted

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples come last, where the eye is when the text has scrolled by."""
        write_examples(self.examples, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        """Raises Interrupted for Ctrl-C."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            raise Interrupted(self._interrupted) from None


class CommandGroup(click.Group):
    """A group of such commands."""

    command_class = Command

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        text, self.examples = split_examples(attributes.pop("help", None) or "")
        super().__init__(*arguments, help=text, **attributes)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As a command's."""
        write_examples(self.examples, formatter)


# A group below the group is of the same class.
CommandGroup.group_class = CommandGroup


def split_examples(docstring: str) -> tuple[str, list[str]]:
    """The text before the examples, and a line for each of them."""
    text, *examples = _EXAMPLES.split(docstring, maxsplit=1)
    return text.rstrip(), [line.strip() for line in "".join(examples).splitlines() if line.strip()]


def write_examples(examples: list[str], formatter: click.HelpFormatter) -> None:
    """Never wrapped: they are there to be copied."""
    if examples:
        formatter.write(f"\n{_HEADING}\n")
        for example in examples:
            formatter.write(f"  {example}\n")


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --json to a command that hands its result to `flexunet.cli.console.print_result`."""
    return click.option(
        "--json", is_flag=True, expose_value=False, callback=_noted(JSON), help="One JSON document on stdout."
    )(function)


def _verbose() -> click.Option:
    return click.Option(
        ["-v", "--verbose"], is_flag=True, expose_value=False, callback=_noted(VERBOSE), help="Shows all logs."
    )


def _noted(key: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def note(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value:
            context.meta[key] = True

    return note
