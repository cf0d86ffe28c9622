"""The settings of `[beam]`: where Apache Beam runs what reads and writes many records. They change no output."""

from collections.abc import Iterator
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from flexunet.core.config.section import Section

Address = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+:[0-9]{1,5}$")]

# The nodes of the pipeline that run it.
BEAM_NODES: Final = ("RecordGen", "StatisticsGen", "MaskValidator", "Transform", "Evaluator")
# Engines that are reached through a job server.
WITH_JOB_SERVER: Final = ("flink", "spark", "portable")


class BeamRunConfig(Section):
    """How one node, or the command `ingest` or `evaluate`, runs its Beam pipeline."""

    runner: Literal["local", "flink", "spark", "portable", "dataflow"] = Field(
        default="local", description="The engine; `portable`: another that speaks Beam's job API, such as Prism."
    )
    endpoint: Address | None = Field(
        default=None,
        description="Address of Beam's job server, host:port, for flink, spark and portable.",
    )
    parallelism: int = Field(
        default=1, ge=1, le=10_000, description="Workers; with `local` more than one are processes of this machine."
    )
    environment: Literal["external", "process", "docker"] = Field(
        default="external", description="How an engine's machines start our code: see docs/how-to/beam.md."
    )
    worker_pool: Address = Field(
        default="localhost:50000", description="For `external`: Beam's worker pool, as a task manager reaches it."
    )
    worker_command: str = Field(
        default="/opt/apache/beam/boot", min_length=1, description="For `process`: Beam's boot, on the task manager."
    )
    workers_image: str = Field(
        default="",
        description="For `docker` and dataflow: the target `beam` of kubeflow/Dockerfile.",
    )
    options: tuple[str, ...] = Field(
        default=(), description="More of Beam's own, --name=value; an unknown one is refused."
    )


class BeamConfig(BeamRunConfig):
    """Where Apache Beam runs: docs/how-to/beam.md."""

    nodes: dict[str, BeamRunConfig] = Field(
        default_factory=dict,
        description=f"What differs by node: {', '.join(BEAM_NODES)}.",
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        choices = ", ".join(BEAM_NODES)
        unknown = [name for name in self.nodes if name not in BEAM_NODES]
        problems = [f"nodes.{name}: no node that runs Beam, expected one of {choices}" for name in unknown]
        problems += [problem for name in ("", *self.nodes) for problem in _problems(self.node(name), name)]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def node(self, name: str) -> BeamRunConfig:
        """What a node gets: its own keys, else those of the section."""
        own = self.nodes.get(name, BeamRunConfig()).model_dump(exclude_unset=True)
        return BeamRunConfig(**{**self.model_dump(exclude={"nodes"}), **own})


def _problems(settings: BeamRunConfig, node: str) -> Iterator[str]:
    where = f"nodes.{node}." if node else ""
    has_server = settings.runner in WITH_JOB_SERVER
    if has_server and settings.endpoint is None:
        yield f"{where}endpoint is missing for runner = {settings.runner!r}, expected its job server, host:port"
    if not has_server and settings.endpoint is not None:
        yield f"{where}endpoint is {settings.endpoint!r} with runner = {settings.runner!r}, expected none; set runner"
    needs_image = settings.runner == "dataflow" or (has_server and settings.environment == "docker")
    if needs_image and not settings.workers_image:
        yield f"{where}workers_image is missing, expected the image of kubeflow/Dockerfile's target `beam`"
    for option in settings.options:
        if not option.startswith("--"):
            yield f"{where}options holds {option!r}, expected --name=value or --name"
