"""Options that commands have in common, and what code far below asks of them: click hands `meta` down."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import click
from click.shell_completion import CompletionItem

from flexunet.core.errors import UserError
from flexunet.dataset.layouts.known import LAYOUTS

VERBOSE: Final = "flexunet.verbose"
JSON: Final = "flexunet.json"

FILE: Final = click.Path(path_type=Path, exists=True, dir_okay=False)
PATH: Final = click.Path(path_type=Path)
# 0: any that is free.
PORT: Final = click.IntRange(0, 65535)


def wanted(option: str) -> bool:
    """Whether the command that runs was given VERBOSE or JSON."""
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(option))


def noted(key: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    """The callback of a flag that `wanted` asks for."""

    def note(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value:
            context.meta[key] = True

    return note


def not_blank(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuses a reason that is empty: it stays on record."""
    if value is not None and not value.strip():
        raise click.BadParameter("empty, expected a reason that stays on record", context, parameter)
    return value


def not_there(context: click.Context, parameter: click.Parameter, value: Path) -> Path:
    """Refuses to write over what exists, before long work."""
    if value.exists():
        raise UserError(f"{value}: is there already, expected something new: remove it, or name another")
    return value


def empty(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """Refuses a folder that holds something, before long work."""
    if value is not None and value.exists() and any(value.iterdir()):
        raise UserError(f"{value}: holds files already, expected a new folder: name another")
    return value


def _new_file(context: click.Context, parameter: click.Parameter, value: Path) -> Path:
    not_there(context, parameter, value)
    if not value.parent.is_dir():
        what = "not a folder" if value.parent.exists() else "no such folder"
        raise UserError(f"{value.parent}: {what}, expected one for {value.name}: make it, or name another")
    return value


def complete_presets(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of presets that begin as what was typed does."""
    from flexunet.core.config.load import preset_names

    names = [CompletionItem(name) for name in preset_names() if name.startswith(incomplete)]
    # The shell completes files by itself when it is told their type.
    return [*names, CompletionItem(incomplete, type="file")]


def _settings(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from flexunet.core.config.load import choices_of, key_names

    key, equals, value = incomplete.partition("=")
    if equals:
        return [f"{key}={choice}" for choice in choices_of(key) if choice.startswith(value)]
    return [f"{name}=" for name in key_names() if name.startswith(incomplete)]


CONFIG: Final = click.option(
    "--config", required=True, metavar="C", help="TOML file, or the name of a preset.", shell_complete=complete_presets
)
SET: Final = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="A.B=V",
    help="Overrides a key of the config; may be given again.",
    shell_complete=_settings,
)
NEW_CONFIG: Final = click.option("--out", required=True, type=PATH, callback=_new_file, help="TOML file to write.")
DATA: Final = click.option("--data", required=True, type=PATH, help="Folder of the records, OUT of `flexunet ingest`.")
EXPORT_FORMAT: Final = click.option(
    "--format",
    "kind",
    type=click.Choice(["labelme", "coco"]),
    default="labelme",
    show_default=True,
    help="Annotations of the export.",
)
ROOT: Final = click.option("--root", required=True, type=PATH, help="Folder of the runs.")
ACCEPT_REFUSED: Final = click.option(
    "--accept-refused", metavar="REASON", callback=not_blank, help="Pushes the model though the gate refuses it."
)
LAYOUT: Final = click.option(
    "--layout", "layout_name", type=click.Choice(LAYOUTS), help="How SOURCE is laid out.  [default: found out]"
)
NO_MASK: Final = click.option(
    "--no-mask-is-background", is_flag=True, help="Images that nothing tells a class of show no defect."
)
VERIFY: Final = click.option(
    "--verify", "public_key", type=FILE, metavar="KEY", help="Refuses a model that this public key did not sign."
)
AS_JSON: Final = click.option(
    "--json", is_flag=True, expose_value=False, callback=noted(JSON), help="One JSON document on stdout."
)
WATCHED: Final = click.option(
    "--watched",
    "given",
    multiple=True,
    type=PATH,
    metavar="DIR",
    help="What `live watch` writes to, again for each replica.  [default: ROOT/live]",
)
