# pyright: standard
# Literals have no types.
"""The palette of a FlexUNet project's configuration, as its author meant it, and the classes' names in its comments."""

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Final

Palette = dict[tuple[int, int, int], int]

DEFAULT_PALETTE: Final[Palette] = {(0, 0, 0): 0, (0, 255, 0): 1, (255, 0, 0): 2, (0, 0, 255): 3}
BINARY_PALETTE: Final[Palette] = {(0, 0, 0): 0, (255, 255, 255): 1}
_NAMED: Final = {
    "black": (0, 0, 0),
    "blue": (0, 0, 255),
    "green": (0, 255, 0),
    "red": (255, 0, 0),
    "yellow": (255, 255, 0),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "white": (255, 255, 255),
}
# What `ast.literal_eval` raises.
NO_LITERAL: Final = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)
_TRIPLE: Final = r"[(\[]\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*[)\]]"
_LONGEST_NAME: Final = 64


def palette_of(text: str) -> tuple[Palette | None, str]:
    """Colours and ids of `rgb_map`, and what to say of them: nothing where the original reads the same.

    Read too is what its author can only have meant: a map that does not parse, or in quotes, pairs in a list, colours
    as words or `#rrggbb`. None where it is no map of colours.
    """
    try:
        value = ast.literal_eval(text.strip())
    except NO_LITERAL:
        value = None
    if value is None or isinstance(value, str):
        return _entries_in(text), (
            "mask.rgb_map does not parse, so that the original ran with its default (1 green, 2 red, 3 blue); these "
            "are the colours that the file means, and weights that it trained tell the default's ids: for them, order "
            "the classes so"
        )
    pairs = list(value.items()) if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    if not pairs or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        return None, ""
    palette = {color: number for key, number in pairs if (color := _color(key)) and type(number) is int}
    if len(palette) != len(pairs):
        return None, ""
    as_read = isinstance(value, dict) and [*value] == [*palette]
    return palette, "" if as_read else "mask.rgb_map is no map of (red, green, blue), which the original needs"


def named_colors(text: str, palette: Mapping[tuple[int, int, int], int]) -> dict[int, str]:
    """Names by id, from comments such as `;Patches:blue, Inclusion:(0,255,0)` in the lines above the palette."""
    color = rf"{_TRIPLE}|#[0-9a-f]{{6}}|[a-z]+"
    # Of a bounded length: else a long line would be tried from each of its letters to its end.
    name = rf"([a-z][\w .()/+-]{{0,{_LONGEST_NAME - 1}}}?)\s{{0,9}}[:=]\s{{0,9}}({color})"
    found: dict[int, str] = {}
    for match in re.finditer(name, _comments_above(text.splitlines()), re.IGNORECASE):
        class_id = palette.get(_color_in(match[2]) or (-1, -1, -1))
        if class_id is not None:
            found.setdefault(class_id, match[1].strip())
    # Two of one name are no names.
    return found if len({name.casefold() for name in found.values()}) == len(found) else {}


def _comments_above(lines: Sequence[str]) -> str:
    """Lines of comments right above the palette, one for all."""
    end = next((place for place, line in enumerate(lines) if re.match(r"\s*rgb_map\b", line)), 0)
    begin = end
    while begin and lines[begin - 1].lstrip().startswith((";", "#")):
        begin -= 1
    return "\n".join(lines[begin:end])


def _entries_in(text: str) -> Palette | None:
    entries = re.findall(rf"{_TRIPLE}\s*:\s*(\d{{1,3}})", text)
    palette = {_checked([int(value) for value in color]): int(number) for *color, number in entries}
    return {color: number for color, number in palette.items() if color} if palette and None not in palette else None


def _color(value: object) -> tuple[int, int, int] | None:
    if isinstance(value, str):
        return _color_in(value)
    return _checked(value) if isinstance(value, list | tuple) else None


def _color_in(text: str) -> tuple[int, int, int] | None:
    """Of a word, `#rrggbb` or `(red, green, blue)`."""
    triple = re.fullmatch(_TRIPLE, text.strip())
    if triple:
        return _checked([int(channel) for channel in triple.groups()])
    if re.fullmatch(r"#[0-9a-fA-F]{6}", text.strip()):
        return _checked([*bytes.fromhex(text.strip()[1:])])
    return _NAMED.get(text.strip().casefold())


def _checked(channels: Sequence[object]) -> tuple[int, int, int] | None:
    whole = [channel for channel in channels if type(channel) is int and 0 <= channel <= 255]
    return (whole[0], whole[1], whole[2]) if len(whole) == len(channels) == 3 else None
