"""Sources of images that only train, such as generated ones: folders, which an image's id tells."""

import re
from collections.abc import Iterable


def source_pattern(name: str) -> str:
    """A regular expression, for RE2 too, that matches the ids of images below a folder of that name or path."""
    return rf"(.*/)?{re.escape(name)}/.*"


def source_of(image_id: str, names: Iterable[str]) -> str:
    """The first of the sources that an image is from, or ""."""
    return next((name for name in names if re.fullmatch(source_pattern(name), image_id)), "")
