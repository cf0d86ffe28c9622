"""Writes what only repeats the code: keys of configuration and results, commands, the layout. Run by `make docs`.

python -m docs.generate
"""

import ast
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal, TypedDict

import click

from docs import results
from flexunet.cli.command import walk
from flexunet.cli.main import cli
from flexunet.core import readable
from flexunet.core.config.card import PushSettings
from flexunet.core.config.data import SchemaConfig, TransformConfig
from flexunet.core.config.gate import GateSettings
from flexunet.core.config.load import preset_names
from flexunet.core.config.report import ReportSettings
from flexunet.core.config.serving import ServingSettings
from flexunet.core.config.train import TrainerConfig
from flexunet.core.config.tune import TunerConfig
from flexunet.core.config.whole import Config
from flexunet.core.errors import Drifted, Interrupted, ModelRefused, NodeFailed, ServingRefused, UserError
from flexunet.core.files import Json

# What pydantic writes of JSON Schema, as far as it is read here; sections are definitions with properties.
Schema = TypedDict(
    "Schema",
    {
        "$ref": str,
        "type": str,
        "description": str,
        "default": Json,
        "const": Json,
        "enum": list[Json],
        "anyOf": list["Schema"],
        "oneOf": list["Schema"],
        "properties": dict[str, "Schema"],
        "patternProperties": dict[str, "Schema"],
        "additionalProperties": "Schema | Literal[False]",
        "required": list[str],
        "items": "Schema",
        "prefixItems": list["Schema"],
        "minimum": float,
        "maximum": float,
        "exclusiveMinimum": float,
        "exclusiveMaximum": float,
    },
    total=False,
)

DOCS: Final = Path(__file__).parent
MAP: Final = "contributing/map.md"
# What a node reads is declared by these; the first that has a section names the earliest node.
READERS: Final = (
    (SchemaConfig, "RecordSchema"),
    (TransformConfig, "MaskValidator and Transform"),
    (TrainerConfig, "Trainer"),
    (TunerConfig, "Tuner"),
    (GateSettings, "Evaluator"),
    (ServingSettings, "ServingValidator"),
    (PushSettings, "Pusher"),
    (ReportSettings, "Reporter"),
)
EXIT_CODES: Final = (
    (0, "done"),
    (
        UserError.exit_code,
        "your mistake, usage included: one line that says what, where, what was expected and how to repair it",
    ),
    (ModelRefused.exit_code, "the gate refused the model, also when that verdict came from the cache"),
    (NodeFailed.exit_code, "a node of the pipeline failed; the line names the full log"),
    (ServingRefused.exit_code, "the serving validator refused the model"),
    (Drifted.exit_code, "`live drift`: the served images are no longer those that the model was tried on"),
    (Interrupted.exit_code, "interrupted; the line says how to go on"),
)
BOUNDS: Final = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
KINDS: Final = {"integer": "integer", "number": "number", "boolean": "true or false", "string": "text"}
READING_RULES: Final = f"""\
PNG and JPEG may have {readable.MOST_SEGMENTS - 1:,} chunks or segments before their pixels; a file with more is called
damaged.

## Which way is up

EXIF's orientation turns a picture, for ingest and for a served model alike; masks come back upright, at the upright
size. It is read from JPEG's APP1, PNG's `eXIf` before the pixels, WebP's `EXIF` chunk and TIFF's own tag, from the
first directory, at most {readable.MOST_EXIF_ENTRIES} entries of it; whatever is not as the standard has it, XMP and
tags behind the pixels are ignored. A mask is turned by its own orientation. One that has the size of the pixels as
stored is refused; where the size does not tell (squares, half turns), ingest warns.

## Which value is white

| the file holds | read as |
| --- | --- |
| 1 to 8 bits | all levels from black to white |
| 12 bits (TIFF) | 0 to 4095 |
| 16 bits with a value above {readable.LEAST_OF_16_BITS - 1} | 0 to 65535 |
| 16 bits without, signed and larger integers, floats | refused, unless `image.value_range = [black, white]` is set |

Values outside `image.value_range` are refused. It does not touch images of 8 bits. An export carries it, and the
served model scales by it.

## Masks

Records hold a PNG in the colours of `[[classes]]`; anything else is written anew as that.

- In colour, each pixel is exactly one of the `color`s; of a palette its colours count, and two used
  indices of one colour are refused; a grey palette, as GIF has it, may show ids.
- Grey values are ids of classes, or grey `color`s of classes (0 and 255), whichever fits all pixels. Where both fit
  and differ the mask is refused: `records.mask_values = "ids"` or `"colors"` decides, and with `"ids"` a palette's
  indices are ids, and refused where their colours are those of other classes.
- 255 is unlabelled where `records.ignore_color` is set.
- Ids in some masks and colours in others are a warning: two tools may count the classes differently.
- Refused: lossy compression in any container, more than one picture, colours of 16 bits, fractions, an index that the
  palette does not have, channels of a TIFF that are neither colour nor alpha, more than 8 bits whose zero is white, a
  drawing in alpha alone, pixels that are transparent over a class, or over anything where `records.ignore_color` is
  set.
"""
WARNING: Final = "<!-- Written by docs/generate.py from the code: `make docs`. -->\n"


# Folders of the project that are no packages.
FOLDERS: Final = {
    "benchmarks": "What `make bench` measures: ratios, each against a baseline in the same run.",
    "docs": "These pages; `generate.py` and `pictures.py` write what only repeats the code.",
    "tests": "`<package>/test_<module>.py`; `e2e/` tells whole stories, `docs/` types what the pages say.",
}
# What stands between these is written here, the rest of the page by hand.
BLOCK: Final = re.compile(r"(?<=<!-- layout -->\n).*(?=<!-- end of layout -->)", re.DOTALL)


def main() -> None:
    """Writes the pages."""
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Their text by path below docs/."""
    by_hand = (DOCS / MAP).read_text(encoding="utf-8")
    return {
        "reference/configuration.md": "\n".join(configuration()),
        "reference/commands.md": "\n".join(commands()),
        "reference/metrics.md": "\n".join([f"# Metrics\n\n{WARNING}", *results.page()]),
        "reference/reading.md": "\n".join(reading()),
        MAP: BLOCK.sub(lambda _: "\n".join(layout()), by_hand),
    }


def layout() -> Iterator[str]:
    """The packages with their docstrings, the highest first, and the contracts about who may import whom."""
    contracts = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = {tuple(contract.get("containers", [""])): contract["layers"] for contract in contracts}
    lines = [line for name in _order(layers[("",)]) for line in _packages(Path(name), layers)]
    width = max(len(name) for name, _ in lines) + 2
    yield "```text"
    yield from (f"{name:<{width}}{words}" for name, words in lines)
    yield "```\n\n## Who may import whom\n"
    yield "A layer imports from those below it only; layers in one line know nothing of each other.\n"
    for contract in contracts:
        yield f"{contract['name']}:\n\n```text"
        yield from contract["layers"]
        yield "```\n"


def _order(layers: list[str]) -> list[str]:
    named = [name for layer in layers for name in layer.split(" | ")]
    return [*named, *(name for name in FOLDERS if name not in named)]


def _packages(folder: Path, layers: dict[tuple[str, ...], list[str]]) -> Iterator[tuple[str, str]]:
    """A package and those in it, as their contract orders them."""
    source = DOCS.parent / folder / "__init__.py"
    words = FOLDERS.get(str(folder)) or ast.get_docstring(ast.parse(source.read_text())) or ""
    yield f"{'  ' * (len(folder.parts) - 1)}{folder.name}/", re.split(r"(?<=\.)\s", words)[0]
    inside = {path.parent.name for path in source.parent.glob("*/__init__.py")}
    order = [name for name in _order(layers.get((".".join(folder.parts),), [])) if name in inside]
    for name in [*order, *sorted(inside - set(order))]:
        yield from _packages(folder / name, layers)


def configuration() -> Iterator[str]:
    """Every key of every section, from the pydantic models."""
    schema = Config.model_json_schema()
    definitions: dict[str, Schema] = schema["$defs"]
    yield f"# Configuration\n\n{WARNING}"
    yield (
        "One TOML file, given to `--config`, or the name of a preset "
        f"({', '.join(f'`{name}`' for name in preset_names())}). `--set section.key=value` overrides a key for one "
        "command. Unknown keys, values out of bounds and keys that contradict each other are refused, one line each; "
        "nothing is evaluated and nothing falls back. Bounds are part of the type below.\n"
    )
    for name in Config.model_fields:
        properties: Schema = schema["properties"][name]
        [section, *_] = _sections(properties, definitions)
        yield f"## `[{name}]`\n" if "$ref" in properties else f"## `[[{name}]]`\n"
        yield f"{_description(definitions[section])} {_readers(name)}\n"
        yield from _keys(definitions[section])
        for nested in _nested(section, definitions):
            yield f"### `{nested}`, in `[{name}]`\n\n{_description(definitions[nested])}\n"
            yield from _keys(definitions[nested])


def _sections(properties: Schema, definitions: Mapping[str, Schema]) -> list[str]:
    """The names of the sections that a key holds, alone, in a list or by name; none for a plain value."""
    references = re.findall(r'"\$ref": "#/\$defs/(\w+)"', json.dumps(properties))
    return [name for name in references if "properties" in definitions[name]]


def _nested(section: str, definitions: Mapping[str, Schema]) -> list[str]:
    """Sections below a section, each once."""
    found: list[str] = []
    for value in definitions[section].get("properties", {}).values():
        for inner in _sections(value, definitions)[:1]:
            found += [name for name in (inner, *_nested(inner, definitions)) if name not in found]
    return found


def _keys(section: Schema) -> Iterator[str]:
    yield "| key | type | default | what |\n| --- | --- | --- | --- |"
    for key, value in section.get("properties", {}).items():
        default = "required" if key in section.get("required", ()) else _default(value)
        yield f"| `{key}` | {type_words(value)} | {default} | {_description(value)} |"
    yield ""


def _description(schema: Schema) -> str:
    return _plain(schema.get("description", ""))


def type_words(schema: Schema) -> str:
    """A type of JSON schema and its bounds, in words that fit into a cell."""
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if either := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join("unset" if part.get("type") == "null" else type_words(part) for part in either)
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(choice)}`" for choice in schema["enum"])
    if "prefixItems" in schema:
        return f"{len(schema['prefixItems'])} of ({type_words(schema['prefixItems'][0])})"
    if "items" in schema:
        return f"list of ({type_words(schema['items'])})"
    values = schema.get("additionalProperties") or next(iter(schema.get("patternProperties", {}).values()), None)
    if values:
        return f"table of name = ({type_words(values)})"
    bounds = [f"{sign} {schema[key]:g}" for key, sign in BOUNDS if key in schema]
    return ", ".join([KINDS[schema.get("type", "")], *bounds])


def _default(schema: Schema) -> str:
    if "default" in schema:
        return "unset" if schema["default"] is None else f"`{json.dumps(schema['default'])}`"
    return "`{}`" if schema.get("type") == "object" else "its own"


def _readers(name: str) -> str:
    if name == "dataset":
        return (
            "Read by `flexunet ingest`; `spans` re-runs RecordGen and what depends on it, names in `sources` "
            "MaskValidator, their shares Trainer, `equal_groups` Transform, the rest Reporter."
        )
    reader = next((node for part, node in READERS if name in part.model_fields), None)
    return f"A change re-runs {reader} and what depends on it." if reader else "No node reads it."


def reading() -> Iterator[str]:
    """The table of what can be read, from its one owner."""
    yield f"# What can be read\n\n{WARNING}"
    yield (
        "One table for `flexunet ingest`, MaskValidator, the graph of every signature, `flexunet predict` and the "
        "development server; its owner is `flexunet/core/readable.py`. The kind is told by the file's first bytes and "
        "its header, never by its name.\n"
    )
    for verdict in readable.Verdict:
        yield f"## {verdict.value[0].upper()}{verdict.value[1:]}\n"
        yield "| kind | how, or what is said of it |\n| --- | --- |"
        for kind in readable.KINDS:
            if kind.verdict is verdict:
                yield f"| {kind.name} | {_plain(kind.note or str(kind.words))} |"
        yield ""
    yield READING_RULES


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
