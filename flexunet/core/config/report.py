"""The settings that the report shows: what was asked of the model, and how and where it was made."""

from pydantic import Field

from flexunet.core.config.beam import BeamConfig
from flexunet.core.config.dataset import DatasetConfig, MasksConfig
from flexunet.core.config.gate import GateSettings
from flexunet.core.config.kubeflow import KubeflowConfig
from flexunet.core.config.serving import ServingConfig


class ReportSettings(GateSettings):
    """The sections that the report shows beside those that the export carries, which the model was trained with."""

    records: MasksConfig = Field(default_factory=MasksConfig)
    dataset: DatasetConfig = Field(default_factory=DatasetConfig)
    serving: ServingConfig = Field(default_factory=ServingConfig)
    beam: BeamConfig = Field(default_factory=BeamConfig)
    kubeflow: KubeflowConfig = Field(default_factory=KubeflowConfig)
