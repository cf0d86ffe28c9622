"""The artifact that MaskValidator leaves behind, apart from the node: those who read it need none of its code."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tfx.types import Artifact, artifact

if TYPE_CHECKING:
    from flexunet.core.results.data import SplitFacts

VALIDATION_FILE: Final = "validation.json"


class MaskValidation(artifact.Artifact):
    """A folder with `validation.json`: images, pixels and pixel share of each class, per split."""

    TYPE_NAME = "MaskValidation"


def split_facts(validation: Artifact) -> "dict[str, SplitFacts]":
    """What a MaskValidation holds of each split, by name."""
    return json.loads((Path(validation.uri) / VALIDATION_FILE).read_text(encoding="utf-8"))["splits"]
