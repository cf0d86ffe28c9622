"""What `prepare` leaves on the volume for the nodes of one run."""

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flexunet.core.errors import UserError
from flexunet.core.files import replace_file
from flexunet.core.root import Root

if TYPE_CHECKING:
    from tfx.proto.orchestration import pipeline_pb2

# How the line of a pod's log begins that holds the verdict.
_VERDICT_LINE: Final = "flexunet-verdict: "
# Seconds that a step waits for the lock of a folder: another run's step holds it for a few.
LONGEST_WAIT: Final = 600


def close_to_others(folder: Path, umask: int) -> tuple[int, int]:
    """Takes the rights in `umask` from what everybody may write in a folder: earlier versions left such files.

    Returns:
      How many paths were mended, and how many could not be, since they belong to another user.
    """
    mended = foreign = 0
    for path, mode in _writable_by_everybody(folder):
        try:
            path.chmod(mode & ~umask)
        except PermissionError:
            foreign += 1
        except FileNotFoundError:
            continue
        else:
            mended += 1
    return mended, foreign


def _writable_by_everybody(folder: Path) -> Iterator[tuple[Path, int]]:
    for directory, _, files in os.walk(folder):
        for path in (Path(directory), *(Path(directory, name) for name in files)):
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:
                continue
            if not stat.S_ISLNK(mode) and mode & stat.S_IWOTH:
                yield path, stat.S_IMODE(mode)


@dataclass(frozen=True)
class Run:
    """One run: its folder of runs, and Kubeflow's id of it, which is also TFX's."""

    root: Path
    run_id: str

    @property
    def folder(self) -> Path:
        return Root(self.root).kubeflow / self.run_id

    def write(self, ir: "pipeline_pb2.Pipeline", parameters: "Parameters") -> None:
        """The compiled pipeline last: a node that finds it finds the rest."""
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(self.folder / "parameters.json", (json.dumps(asdict(parameters), indent=2) + "\n").encode())
        # As JSON it could be read only where every message packed into it is imported.
        replace_file(self.folder / "pipeline.pb", ir.SerializeToString(deterministic=True))

    def read_pipeline(self) -> "pipeline_pb2.Pipeline":
        """The pipeline, compiled for this run.

        Raises:
          UserError: `prepare` did not run here.
        """
        from tfx.proto.orchestration import pipeline_pb2

        return pipeline_pb2.Pipeline.FromString(self._read("pipeline.pb"))

    def read_parameters(self) -> "Parameters":
        return Parameters(**json.loads(self._read("parameters.json")))

    def write_verdict(self, verdict: "Verdict") -> None:
        """Writes the verdict for who has the volume and cannot have the pod's log."""
        replace_file(self.folder / "verdict.json", (json.dumps(asdict(verdict), indent=2) + "\n").encode())

    def read_verdict(self) -> "Verdict | None":
        """None where the volume is not mounted here, or the step has not come so far."""
        try:
            return Verdict(**json.loads((self.folder / "verdict.json").read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

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
    """What a run was started with; `config` is JSON of what was set, with the overrides applied."""

    data: str
    span: int | None
    overrides: list[str]
    accepted_refused: str
    config: str


@dataclass(frozen=True)
class Verdict:
    """What the last step found: the lines it printed, who refused the model (`gate`, `serving` or nobody), why."""

    refused_by: str
    error: str
    lines: list[str]

    def as_line(self) -> str:
        """One line among those of others in a pod's log."""
        return _VERDICT_LINE + json.dumps(asdict(self))

    @staticmethod
    def found_in(log: str) -> "Verdict | None":
        """The last one that is whole; None where there is none."""
        for line in reversed(log.splitlines()):
            if line.startswith(_VERDICT_LINE):
                try:
                    return Verdict(**json.loads(line.removeprefix(_VERDICT_LINE)))
                except (ValueError, TypeError):
                    return None
        return None
