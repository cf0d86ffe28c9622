"""The settings of `[serving]` that an export holds: Trainer is keyed by these, and by no others of that section."""

from typing import Literal

from pydantic import Field

from flexunet.core.config.section import Section


class ExportedServing(Section):
    """The settings of `[serving]` that an export holds."""

    symmetries: Literal[1, 2, 4, 8] = Field(
        default=1,
        description="Number of symmetries that an answer is the mean of, and takes so many times as long for; 2: "
        "mirrored left to right; 4: top to bottom, too; 8: turned as well, for square inputs.",
    )
