"""What `prepare` leaves on the volume for the nodes of one run."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from flexunet.core.errors import UserError
from flexunet.core.files import replace_file

# Seconds that a step waits for the lock of a folder: a rollback or another run's step holds it for a few.
LONGEST_WAIT: Final = 600


@dataclass(frozen=True)
class Run:
    """One run: its folder of runs, and Kubeflow's id of it, which is also TFX's."""

    root: Path
    run_id: str

    @property
    def folder(self) -> Path:
        return self.root / "kubeflow" / self.run_id

    def write(self, ir: Any, parameters: "Parameters") -> None:
        """The compiled pipeline last: a node that finds it finds the rest."""
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(self.folder / "parameters.json", (json.dumps(asdict(parameters), indent=2) + "\n").encode())
        # As JSON it could be read only where every message packed into it is imported.
        replace_file(self.folder / "pipeline.pb", ir.SerializeToString(deterministic=True))

    def read_pipeline(self) -> Any:
        """TFX's `pipeline_pb2.Pipeline`, compiled for this run.

        Raises:
          UserError: `prepare` did not run here.
        """
        from tfx.proto.orchestration import pipeline_pb2

        return pipeline_pb2.Pipeline.FromString(self._read("pipeline.pb"))

    def read_parameters(self) -> "Parameters":
        return Parameters(**json.loads(self._read("parameters.json")))

    def _read(self, name: str) -> bytes:
        path = self.folder / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError(
                f"{path}: {error.strerror}, expected what the step prepare writes: is the volume mounted here?"
            ) from None


@dataclass(frozen=True)
class Parameters:
    """What a run was started with; `config` is JSON, with the overrides applied."""

    data: str
    span: int | None
    overrides: list[str]
    accepted_refused: str
    config: str
