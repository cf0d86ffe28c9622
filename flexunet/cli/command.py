"""What all commands of `flexunet` share: --verbose, examples in --help, a word about Ctrl-C, imports when they run."""

import importlib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import click

from flexunet.cli.checkout import missing_package
from flexunet.cli.options import VERBOSE, noted
from flexunet.core.errors import Interrupted, UserError

_HEADING: Final = "Examples:"
_EXAMPLES: Final = re.compile(r"^\s*Examples?:", re.MULTILINE)


class _ShortHelp(click.Command):
    """Has -h too, whoever looks at it first: click keeps the option that it made for the first context."""

    def get_help_option_names(self, ctx: click.Context) -> list[str]:
        return ["-h", "--help"]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses as click does, whose parser does not say which command's option has no value."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise


class Command(_ShortHelp):
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


class CommandGroup(_ShortHelp, click.Group):
    """A group of such commands."""

    command_class = Command

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        text, self.examples = split_examples(attributes.pop("help", None) or "")
        super().__init__(*arguments, help=text, **attributes)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples come last, as in a command."""
        write_examples(self.examples, formatter)


# A group below the group is of the same class.
CommandGroup.group_class = CommandGroup


class SectionedGroup(CommandGroup):
    """The top of the command line, or a group: modules in sections, each imported when its command is looked at.

    A module holds its command under the command's name, or under that behind a colon, as in `package.module:name`.

    Args:
      sections: modules by command, by the heading that they stand under in `--help`.
    """

    def __init__(self, *arguments: Any, sections: Mapping[str, Mapping[str, str]], **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self._sections = sections
        self._modules = {name: module for modules in sections.values() for name, module in modules.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands that are there: a wheel has fewer."""
        return [name for name, module in self._modules.items() if not missing_package(module)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command.

        Raises:
          UserError: it needs a checkout of the project.
        """
        module = self._modules.get(cmd_name)
        if module is None:
            return None
        missing = missing_package(module)
        if missing:
            raise UserError(
                f"{ctx.command_path} {cmd_name} is not in the wheel: it needs {missing}/, "
                "expected a checkout of the project or its image: run it there"
            )
        name, _, attribute = module.partition(":")
        return getattr(importlib.import_module(name), attribute or cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolves as click does; an unknown name is refused with all names to guess from."""
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            raise click.exceptions.NoSuchCommand(args[0], possibilities=self._modules, ctx=error.ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A list for each section."""
        available = set(self.list_commands(ctx))
        width = max(map(len, self._modules))
        for heading, modules in self._sections.items():
            names = [name for name in modules if name in available]
            rows = [(name.ljust(width), self._short_help(ctx, name, formatter.width - width - 6)) for name in names]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)
        left_out = [name for name in self._modules if name not in available]
        if left_out:
            formatter.write_paragraph()
            formatter.write_text(f"In a checkout of the project, or in its image, also: {', '.join(left_out)}.")

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples of commands that are there."""
        available, place = self.list_commands(ctx), len(ctx.command_path.split())
        write_examples([example for example in self.examples if example.split()[place] in available], formatter)

    def _short_help(self, ctx: click.Context, name: str, width: int) -> str:
        command = self.get_command(ctx, name)
        return command.get_short_help_str(width) if command else ""


def walk(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """A group and every command below it, each with the words that call it, those of `group` left out."""
    yield path, group
    context = click.Context(group)
    for name in sorted(group.list_commands(context)):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from walk(command, (*path, name))
        elif command:
            yield (*path, name), command


def spelled(*words: object) -> str:
    """`flexunet WORDS` as a shell takes it, whatever is in the names: to be copied from the terminal."""
    return shlex.join(["flexunet", *map(str, words)])


def set_options(overrides: Sequence[str]) -> list[str]:
    """`a.b=v` as words of a command line."""
    return [word for override in overrides for word in ("--set", override)]


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


def _verbose() -> click.Option:
    return click.Option(
        ["-v", "--verbose"], is_flag=True, expose_value=False, callback=noted(VERBOSE), help="Shows all logs."
    )
