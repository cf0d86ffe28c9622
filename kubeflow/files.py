"""What `prepare` leaves on the volume for the nodes of one run."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError


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
        from google.protobuf import json_format

        self.folder.mkdir(parents=True, exist_ok=True)
        _replace(self.folder / "parameters.json", json.dumps(asdict(parameters), indent=2) + "\n")
        _replace(self.folder / "pipeline.json", json_format.MessageToJson(ir, sort_keys=True) + "\n")

    def read_pipeline(self) -> Any:
        """TFX's `pipeline_pb2.Pipeline`, compiled for this run.

        Raises:
          UserError: `prepare` did not run here.
        """
        from google.protobuf import json_format
        from tfx.proto.orchestration import pipeline_pb2

        return json_format.Parse(self._read("pipeline.json"), pipeline_pb2.Pipeline())

    def read_parameters(self) -> "Parameters":
        return Parameters(**json.loads(self._read("parameters.json")))

    def _read(self, name: str) -> str:
        path = self.folder / name
        try:
            return path.read_text(encoding="utf-8")
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


def _replace(path: Path, text: str) -> None:
    aside = path.with_suffix(".incomplete")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
