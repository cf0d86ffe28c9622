"""The settings that the report reads: what was asked of the model."""

from pydantic import Field

from flexunet.core.config.gate import GateSettings
from flexunet.core.config.serving import ServingConfig


class ReportSettings(GateSettings):
    """The sections that the report reads."""

    serving: ServingConfig = Field(default_factory=ServingConfig)
