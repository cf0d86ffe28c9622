"""Writes the pages that only repeat the code: keys of configuration and results, commands. Run by `make docs`.

python docs/generate.py
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from docs import results
from flexunet.cli.command import walk
from flexunet.cli.main import cli
from flexunet.core.config.data import SchemaConfig, TransformConfig
from flexunet.core.config.gate import GateSettings
from flexunet.core.config.load import preset_names
from flexunet.core.config.serving import ServingSettings
from flexunet.core.config.train import TrainerConfig
from flexunet.core.config.whole import Config

REFERENCE: Final = Path(__file__).parent / "reference"
# What a node reads is declared by these; the first that has a section names the earliest node.
READERS: Final = (
    (SchemaConfig, "RecordSchema"),
    (TransformConfig, "MaskValidator and Transform"),
    (TrainerConfig, "Trainer"),
    (GateSettings, "Evaluator"),
    (ServingSettings, "ServingValidator"),
)
EXIT_CODES: Final = (
    (0, "done"),
    (1, "your mistake, usage included: one line that says what, where, what was expected and how to repair it"),
    (2, "the gate refused the model, also when that verdict came from the cache"),
    (3, "a node of the pipeline failed; the line names the full log"),
    (4, "the serving validator refused the model"),
    (130, "interrupted; the line says how to go on"),
)
BOUNDS: Final = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
KINDS: Final = {"integer": "integer", "number": "number", "boolean": "true or false", "string": "text"}
WARNING: Final = "<!-- Written by docs/generate.py from the code: `make docs`. -->\n"


def main() -> None:
    """Writes them all."""
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Their text by file name."""
    return {
        "configuration.md": "\n".join(configuration()),
        "commands.md": "\n".join(commands()),
        "metrics.md": "\n".join([f"# Metrics\n\n{WARNING}", *results.page()]),
    }


def configuration() -> Iterator[str]:
    """Every key of every section, from the pydantic models."""
    schema = Config.model_json_schema()
    yield f"# Configuration\n\n{WARNING}"
    yield (
        "One TOML file, given to `--config`, or the name of a preset "
        f"({', '.join(f'`{name}`' for name in preset_names())}). `--set section.key=value` overrides a key for one "
        "command. Unknown keys, values out of bounds and keys that contradict each other are refused, one line each; "
        "nothing is evaluated and nothing falls back. Bounds are part of the type below.\n"
    )
    for name in Config.model_fields:
        properties = schema["properties"][name]
        section = _definition(properties, schema)
        yield f"## `[{name}]`\n" if "$ref" in properties else f"## `[[{name}]]`\n"
        yield f"{_plain(schema['$defs'][section]['description'])} {_readers(name)}\n"
        yield from _keys(schema["$defs"][section])
        for nested in _nested(section, schema):
            yield f"### `{nested}`, in `[{name}]`\n\n{_plain(schema['$defs'][nested]['description'])}\n"
            yield from _keys(schema["$defs"][nested])


def _definition(properties: dict[str, Any], schema: dict[str, Any]) -> str | None:
    """The name of the section that a key holds, alone, in a list or by name; None for a plain value."""
    references = re.findall(r'"\$ref": "#/\$defs/(\w+)"', json.dumps(properties))
    sections = [name for name in references if "properties" in schema["$defs"][name]]
    return sections[0] if sections else None


def _nested(section: str, schema: dict[str, Any]) -> list[str]:
    """Sections below a section, each once."""
    found: list[str] = []
    for value in schema["$defs"][section]["properties"].values():
        inner = _definition(value, schema)
        if inner:
            found += [name for name in (inner, *_nested(inner, schema)) if name not in found]
    return found


def _keys(section: dict[str, Any]) -> Iterator[str]:
    yield "| key | type | default | what |\n| --- | --- | --- | --- |"
    for key, value in section["properties"].items():
        default = "required" if key in section.get("required", ()) else _default(value)
        yield f"| `{key}` | {type_words(value)} | {default} | {_plain(value.get('description', ''))} |"
    yield ""


def type_words(schema: dict[str, Any]) -> str:
    """A type of JSON schema and its bounds, in words that fit into a cell."""
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if "anyOf" in schema:
        return " or ".join("unset" if part.get("type") == "null" else type_words(part) for part in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(choice)}`" for choice in schema["enum"])
    if "prefixItems" in schema:
        return f"{len(schema['prefixItems'])} of ({type_words(schema['prefixItems'][0])})"
    if schema["type"] == "array":
        return f"list of ({type_words(schema['items'])})"
    if schema["type"] == "object":
        values = schema.get("additionalProperties") or next(iter(schema["patternProperties"].values()))
        return f"table of name = ({type_words(values)})"
    bounds = [f"{sign} {schema[key]:g}" for key, sign in BOUNDS if key in schema]
    return ", ".join([KINDS[schema["type"]], *bounds])


def _default(schema: dict[str, Any]) -> str:
    if "default" in schema:
        return "unset" if schema["default"] is None else f"`{json.dumps(schema['default'])}`"
    return "`{}`" if schema.get("type") == "object" else "its own"


def _readers(name: str) -> str:
    if name == "dataset":
        return "Read by `flexunet ingest`; a change of `spans` re-runs RecordGen and what depends on it."
    reader = next((node for part, node in READERS if name in part.model_fields), None)
    return f"A change re-runs {reader} and what depends on it." if reader else "No node reads it."


def commands() -> Iterator[str]:
    """Every command with its options and examples, from click."""
    yield f"# Commands\n\n{WARNING}"
    yield "Every command has `--help`, and `--verbose` (`-v`), which shows all that libraries print.\n"
    yield "| exit code | meaning |\n| --- | --- |"
    yield from (f"| {code} | {meaning} |" for code, meaning in EXIT_CODES)
    yield (
        "\nWith `--json`, stdout is one JSON document and what is else told goes to stderr; a refused model's is "
        "printed all the same. Where no terminal is, tables have no rules and nothing moves.\n"
    )
    for path, command in walk(cli, ("flexunet",)):
        if not isinstance(command, click.Group):
            yield from _command(path, command)


def _command(path: tuple[str, ...], command: click.Command) -> Iterator[str]:
    # A command remembers the names of its help option from its first context.
    context = click.Context(command, info_name=" ".join(path), **cli.context_settings)
    yield f"## {' '.join(path)}\n\n{_plain(command.help or '')}\n"
    yield f"`{' '.join([*path, *command.collect_usage_pieces(context)])}`\n"
    yield "| option | what |\n| --- | --- |"
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record and record[1] and "--verbose" not in parameter.opts:
            yield f"| `{record[0]}` | {_plain(record[1])} |"
    examples = "\n".join(getattr(command, "examples", []))
    yield f"\n```sh\n{examples}\n```\n"


def _plain(text: str) -> str:
    """Of one line, for a cell; stars are meant."""
    return " ".join(text.split()).replace("*", r"\*").replace("|", r"\|")


if __name__ == "__main__":
    main()
