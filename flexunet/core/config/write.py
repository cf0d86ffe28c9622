# pyright: standard
# INI and TOML have no types.
"""Writes a configuration as TOML for people: in the order of the sections, a comment beside what needs a word."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import tomlkit
from tomlkit.items import AoT, Item, Table

# A section by its keys, or several of them in a list.
Sections: TypeAlias = Mapping[str, object] | Sequence[Mapping[str, object]]


def to_toml(
    values: Mapping[str, Sections],
    comments: Mapping[str, str] | None = None,
    heading: Sequence[str] = (),
    above: Mapping[str, Sequence[str]] | None = None,
    ending: Sequence[str] = (),
) -> str:
    """The text of a TOML file that `load_config` reads.

    Args:
      values: sections by name, `classes` as a list of tables; what is None is left out.
      comments: by `section.key`, written at the end of its line.
      heading: lines of comment at the top.
      above: by section, lines of comment before it.
      ending: lines of comment at the end.
    """
    parts = [_commented(heading)]
    for name, content in values.items():
        document = tomlkit.document()
        document.add(name, _table(name, content, comments or {}) if isinstance(content, Mapping) else _tables(content))
        parts.append(_commented((above or {}).get(name, ())) + tomlkit.dumps(document))
    parts.append(_commented(ending))
    return "\n".join(f"{part.rstrip()}\n" for part in parts if part)


def _commented(lines: Sequence[str]) -> str:
    return "".join(tomlkit.comment(line).as_string() for line in lines)


def _tables(rows: Sequence[Mapping[str, object]]) -> AoT:
    tables = tomlkit.aot()
    for row in rows:
        tables.append(_table("", row, {}))
    return tables


def _table(section: str, values: Mapping[str, object], comments: Mapping[str, str]) -> Table:
    table = tomlkit.table()
    for key, value in values.items():
        if value is not None:
            item: Item = tomlkit.item(list(value) if isinstance(value, tuple) else value)
            table.add(key, item)
            if f"{section}.{key}" in comments:
                item.comment(comments[f"{section}.{key}"])
    return table
