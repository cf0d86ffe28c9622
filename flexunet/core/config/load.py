"""Loads a configuration from TOML: unknown keys are refused, nothing is evaluated, nothing falls back."""

import difflib
import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args, get_origin

from pydantic import ValidationError

from flexunet.core.config.section import Section
from flexunet.core.config.whole import Config
from flexunet.core.errors import UserError

PRESETS: Final = Path(__file__).parent / "presets"


class ConfigError(UserError):
    """A configuration that cannot be used; names file, key, what was got and what was expected."""


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a TOML file, or a preset by its bare name (`demo`), and applies `a.b=value` overrides.

    Raises:
      ConfigError: one line for each mistake.
    """
    path = _find(source)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    return config_from(values, str(path), overrides)


def config_from(values: dict[str, object], source: str, overrides: Sequence[str] = ()) -> Config:
    """Checks plain values, to which `a.b=value` overrides are applied.

    Raises:
      ConfigError: one line for each mistake.
    """
    for override in overrides:
        _apply(values, override)
    source = " ".join([source, *(f"--set {override}" for override in overrides)])
    try:
        return Config.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        problems = [problem for problem in error.errors() if not _is_echo(problem)]
        lines = [f"{source}: {line}" for problem in problems for line in _explain(problem).splitlines()]
        raise ConfigError("\n".join(lines)) from None


def preset_names() -> list[str]:
    """The names of the configurations that ship with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def _find(source: str | Path) -> Path:
    path = Path(source)
    preset = PRESETS / f"{source}.toml"
    if not path.is_file() and "/" not in str(source) and preset.is_file():
        return preset
    if not path.is_file():
        close = difflib.get_close_matches(str(source), preset_names(), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"{path}: no such file, expected a TOML file or a preset: {', '.join(preset_names())}{hint}")
    return path


def _apply(values: dict[str, object], override: str) -> None:
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(f"--set {override}: expected section.key=value, such as train.epochs=20")
    for name in names[:-1]:
        section = values.setdefault(name, {})
        if not isinstance(section, dict):
            raise ConfigError(f"--set {override}: {name} is not a section; lists are changed in the TOML file")
        values = cast("dict[str, object]", section)
    values[names[-1]] = _parse_value(override, text.strip())


def _parse_value(override: str, text: str) -> object:
    # A bare word is a string, so that `--set image.fit=pad` needs no quotes inside quotes.
    if re.fullmatch(r"[A-Za-z_][\w-]*", text) and text not in {"true", "false", "inf", "nan"}:
        return text
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        parsed = {}
    if list(parsed) != ["value"]:
        raise ConfigError(f"--set {override}: {text!r} is not a TOML value (numbers, true, false, 'text', [lists])")
    return parsed["value"]


def _is_echo(problem: Any) -> bool:
    # pydantic counts only the valid items of a tuple: a wrong item would also be reported as a tuple too short.
    return problem["type"] == "too_short" and problem["ctx"]["actual_length"] < len(problem["input"])


def _explain(problem: Any) -> str:
    """One line for one of pydantic's problems: the key, what was got, what was expected."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key}; {_suggestion(problem['loc'])}"
    if problem["type"] == "missing":
        return f"{key} is missing, expected {_repair(key)}"
    message = problem["msg"].removeprefix("Value error, ")
    message = re.sub(r"^\w+ should (be )?", lambda found: "expected " if found[1] else "expected to ", message)
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: got {problem['input']!r}, {message}"


def _repair(key: str) -> str:
    return "at least two [[classes]], the background first" if key == "classes" else "a value"


def _suggestion(location: tuple[int | str, ...]) -> str:
    """The closest key of the same section, else of any: a right key is often in the wrong section, or in none."""
    section: type[Section] = Config
    for name in location[:-1]:
        section = _section_type(section, name)
    choices, wrong = list(section.model_fields), str(location[-1])
    close = difflib.get_close_matches(wrong, choices, n=1)
    if not close:
        names = {key.rpartition(".")[2] for key in key_names()}
        elsewhere = difflib.get_close_matches(wrong, names, n=1)
        close = [key for key in key_names() if key.rpartition(".")[2] in elsewhere]
    return f"did you mean {' or '.join(close)}?" if close else f"expected one of {', '.join(choices)}"


def key_names() -> list[str]:
    """Every `section.key` that `--set` takes."""
    return [
        f"{name}.{key}"
        for name, field in Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        for key in field.annotation.model_fields
    ]


def _section_type(section: type[Section], name: int | str) -> type[Section]:
    """The section at a key; of a tuple or a dict of sections that of its items, whose numbers or names follow."""
    field = section.model_fields.get(str(name))
    kinds = [field.annotation, *get_args(field.annotation)] if field else []
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), section)


def choices_of(key: str) -> list[str]:
    """The values that a `section.key` may have, where they are few: those of a choice, or true and false."""
    section, _, name = key.partition(".")
    holder = Config.model_fields.get(section)
    field = getattr(holder.annotation, "model_fields", {}).get(name) if holder else None
    if field is None:
        return []
    kinds = [field.annotation, *get_args(field.annotation)]
    if bool in kinds:
        return ["true", "false"]
    return [str(choice) for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
