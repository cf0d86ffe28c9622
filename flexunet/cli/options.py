"""Options that commands have in common and that code far below asks for: click hands `meta` down from the command."""

from typing import Final

import click

VERBOSE: Final = "flexunet.verbose"
JSON: Final = "flexunet.json"


def wanted(option: str) -> bool:
    """Whether the command that runs was given VERBOSE or JSON."""
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(option))
