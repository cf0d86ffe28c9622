"""Pages that are written from the code are current."""

from typing import Any

import pytest

from docs import generate
from flexunet.core.config.whole import Config


@pytest.mark.parametrize("name", generate.pages())
def test_generated_pages_are_current(name: str):
    committed = (generate.DOCS / name).read_text()
    assert committed == generate.pages()[name], "run `make docs` and commit what it writes"


def sections() -> list[tuple[str, Any]]:
    definitions = Config.model_json_schema()["$defs"]
    return [(name, section) for name, section in definitions.items() if "properties" in section]


@pytest.mark.parametrize(("name", "section"), sections(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_key_says_what_it_is(name: str, section: dict[str, Any]):
    assert section["description"]
    assert [key for key, value in section["properties"].items() if not value.get("description")] == []
