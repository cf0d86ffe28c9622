"""Settings of `[serving]`: how a model is checked before it is pushed."""

from typing import Literal

from pydantic import Field, field_validator

from flexunet.core.config.data import ImageConfig, RecordsConfig
from flexunet.core.config.section import Section


class ServingConfig(Section):
    """How a model is checked before it is pushed, and how many versions stay. Bounds that are unset only report."""

    keep_versions: int = Field(
        default=5, ge=2, description="Newest versions that stay; a rollback needs an earlier one."
    )
    test_images: int = Field(default=8, ge=1, le=1000, description="Served and evaluated, and their counts compared.")
    max_latency_seconds: float | None = Field(
        default=None, gt=0, description="Median for one image of the model's size."
    )
    max_memory_megabytes: float | None = Field(default=None, gt=0, description="Peak above the loaded model, idle.")
    timeout_seconds: float = Field(default=600, gt=0, description="A model that takes longer to check is refused.")
    infra_validator: Literal["none", "local_docker", "kubernetes"] = Field(
        default="none", description="Also TFX's InfraValidator, which starts TF Serving itself."
    )
    mirror: str = Field(default="", description="URL of a remote store that gets a copy of each pushed version.")
    image: str = Field(default="tensorflow/serving:2.21.0", description="TF Serving, as NAME:TAG, for InfraValidator.")

    @field_validator("image")
    @classmethod
    def _is_a_name_with_a_tag(cls, image: str) -> str:
        # InfraValidator takes both apart and knows no digests. A registry may have a port.
        name, _, tag = image.rpartition(":")
        if not name or not tag or "/" in tag or "@" in image:
            raise ValueError(f"got {image!r}, expected NAME:TAG, such as tensorflow/serving:2.21.0")
        return image


class ServingSettings(Section):
    """The sections that the serving validator reads."""

    records: RecordsConfig
    image: ImageConfig = Field(default_factory=ImageConfig)
    serving: ServingConfig
