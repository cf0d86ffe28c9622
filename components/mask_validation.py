"""What MaskValidator leaves behind: those who read it need none of its code."""

from typing import Final

from tfx.types import artifact

VALIDATION_FILE: Final = "validation.json"


class MaskValidation(artifact.Artifact):
    """A folder with `validation.json`: images, pixels and pixel share of each class, per split."""

    TYPE_NAME = "MaskValidation"
