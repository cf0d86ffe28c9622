"""Writes the pages that only repeat the code: every key of the configuration, every command. Run by `make docs`.

python docs/generate.py
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from pipeline.cli import cli
from pipeline.config import (
    Config,
    GateSettings,
    SchemaConfig,
    ServingSettings,
    TrainerConfig,
    TransformConfig,
    preset_names,
)

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
    """Writes both pages."""
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Their text by file name."""
    return {"configuration.md": "\n".join(configuration()), "commands.md": "\n".join(commands())}


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
    for name, field in Config.model_fields.items():
        properties = schema["properties"][name]
        reference = properties.get("$ref") or properties["items"]["$ref"]
        section = schema["$defs"][reference.rpartition("/")[2]]
        yield f"## `[{name}]`\n" if "$ref" in properties else f"## `[[{name}]]`\n"
        yield f"{_plain(section['description'])} {_readers(name)}\n"
        yield "| key | type | default | what |\n| --- | --- | --- | --- |"
        section_type = field.annotation
        for key, value in section["properties"].items():
            cells = (f"`{key}`", type_words(value), _default(section_type, key), _plain(value.get("description", "")))
            yield f"| {' | '.join(cells)} |"
        yield ""


def type_words(schema: dict[str, Any]) -> str:
    """A type of JSON schema and its bounds, in words that fit into a cell."""
    if "anyOf" in schema:
        return " or ".join("unset" if part.get("type") == "null" else type_words(part) for part in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(choice)}`" for choice in schema["enum"])
    if "prefixItems" in schema:
        return f"{len(schema['prefixItems'])} of ({type_words(schema['prefixItems'][0])})"
    if schema["type"] == "array":
        return f"list of ({type_words(schema['items'])})"
    if schema["type"] == "object":
        return f"table of name = ({type_words(schema['additionalProperties'])})"
    bounds = [f"{sign} {schema[key]:g}" for key, sign in BOUNDS if key in schema]
    return ", ".join([KINDS[schema["type"]], *bounds])


def _default(section_type: Any, key: str) -> str:
    fields = getattr(section_type, "model_fields", None)
    if fields is None or fields[key].is_required():
        return "required"
    value = fields[key].get_default(call_default_factory=True)
    return "unset" if value is None else f"`{json.dumps(value)}`"


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
    for path, command in leaves(cli):
        yield from _command(path, command)


def leaves(
    group: click.Group, path: tuple[str, ...] = ("flexunet",)
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below a group, and below groups in it."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


def _command(path: tuple[str, ...], command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=" ".join(path))
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
