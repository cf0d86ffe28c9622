"""A configuration as a flat list of keys, for tables and for the difference of two."""

from collections.abc import Iterator
from dataclasses import dataclass

from flexunet.core.config.report import ReportSettings
from flexunet.core.config.train import TrainerConfig
from flexunet.core.files import JsonObject


@dataclass(frozen=True)
class Setting:
    """`train.epochs` and its value as TOML would have it; `changed`: another than the default."""

    key: str
    value: str
    changed: bool


@dataclass(frozen=True)
class Difference:
    """A key whose value is not the same in two configurations; None where one has no such key."""

    key: str
    here: str | None
    there: str | None


def settings_of(config: JsonObject) -> list[Setting]:
    """Every key of the sections that `config`, a Config in JSON or a part of one, holds."""
    defaults = dict(_flat(_defaults()))
    return [Setting(key, written(value), defaults.get(key, value) != value) for key, value in _flat(config)]


def differences(here: JsonObject, there: JsonObject) -> list[Difference]:
    """Keys with different values, in the order of the first configuration."""
    left, right = dict(_flat(here)), dict(_flat(there))
    return [
        Difference(key, written(left[key]) if key in left else None, written(right[key]) if key in right else None)
        for key in dict.fromkeys([*left, *right])
        if key not in left or key not in right or left[key] != right[key]
    ]


def written(value: object) -> str:
    """A value as TOML writes it; None, which TOML has no word for, is "unset"."""
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{k} = {written(v)}' for k, v in value.items())} }}" if value else "{ }"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _flat(config: JsonObject) -> Iterator[tuple[str, object]]:
    for section, content in config.items():
        if isinstance(content, dict):
            yield from ((f"{section}.{key}", value) for key, value in content.items())
        elif section == "classes":
            # Their order is their ids.
            yield "classes", [row["name"] for row in content]
            yield from ((f"classes.{row['name']}", row["color"]) for row in content)
        else:
            yield section, content


def _defaults() -> JsonObject:
    """Defaults of all sections but `[[classes]]`, which has none."""
    fields = {**TrainerConfig.model_fields, **ReportSettings.model_fields}
    sections: JsonObject = {name: field.annotation for name, field in fields.items() if name != "classes"}
    return {name: kind().model_dump(mode="json") for name, kind in sections.items()}
