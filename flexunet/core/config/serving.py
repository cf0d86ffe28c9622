"""Settings of `[serving]`: how a model is checked before it is pushed."""

from typing import Literal

from pydantic import Field, field_validator

from flexunet.core.config.data import RecordsConfig
from flexunet.core.config.section import Section
from flexunet.core.config.symmetries import ExportedServing


class ServingConfig(ExportedServing):
    """What is served, how a model is checked before it is pushed, and how many versions stay. Bounds that are unset
    only report.
    """

    keep_versions: int = Field(
        default=5, ge=2, description="Number of pushed versions that are kept; a rollback needs an earlier one."
    )
    test_images: int = Field(
        default=8,
        ge=1,
        le=1000,
        description="Number of test images that are both served and evaluated, to compare their counts.",
    )
    max_latency_seconds: float | None = Field(
        default=None,
        gt=0,
        description="Upper bound of the median latency for one image of the model's size; unset: only reported.",
    )
    max_memory_megabytes: float | None = Field(
        default=None,
        gt=0,
        description="Upper bound of the peak memory above that of the loaded, idle model; unset: only reported.",
    )
    timeout_seconds: float = Field(
        default=600, gt=0, description="Time limit of the whole check; a model that takes longer is refused."
    )
    infra_validator: Literal["none", "local_docker", "kubernetes"] = Field(
        default="none", description="Platform of TFX's InfraValidator, which starts TF Serving itself; none: left out."
    )
    mirror: str = Field(default="", description="URL of a remote store that each pushed version is copied to.")
    signing_key: str = Field(
        default="",
        description="Private key, a PEM file, that each pushed version is signed with: docs/how-to/sign.md.",
    )
    image: str = Field(
        default="tensorflow/serving:2.21.0", description="Image of TF Serving for InfraValidator, as NAME:TAG."
    )

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
    serving: ServingConfig
