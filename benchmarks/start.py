"""How much starting costs: each of four nodes, and a run that is all cached, against `from tfx import v1`.

    make bench                                              most of this part is the demo's first run
    .venv/bin/python -m benchmarks.start --root runs/demo   with a demo that has run

A node's start is a process that launches it as `pipeline/launch.py` does: the driver, ML Metadata, the class that
executes it, a hit in the cache, and the project's code that this class imports by path.
"""

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.memory import peak_mebibytes
from flexunet.core.config.load import load_config
from flexunet.core.root import Root

if TYPE_CHECKING:
    from ml_metadata.proto import metadata_store_pb2
    from tfx.orchestration import metadata
    from tfx.orchestration.pipeline import Pipeline

ROUNDS: Final = 3
# What a node's executor imports by path, beside its own class.
USER_CODE: Final = {
    "RecordGen": (),
    "Transform": ("transform_module.preprocessing",),
    "Trainer": ("trainer_module.trainer",),
    "Evaluator": ("components.segmentation_metrics", "components.evaluated_model"),
}
# Of issue 14: CPU and peak memory against `from tfx import v1`.
NODE_AT_MOST: Final = (0.6, 0.75)
RUN_AT_MOST: Final = 1.0
BASE: Final = "from tfx import v1"
RUN: Final = "flexunet run, all cached"
_IMPORT: Final = f"{BASE}; from benchmarks.memory import peak_mebibytes; print(peak_mebibytes())"
_RUN_ID: Final = "benchmarks.start"
_NODE, _PREPARE = "--node", "--prepare"


class Cost(NamedTuple):
    """Of one process and those that it waited for: seconds of CPU; its own peak in MiB, NaN if it did not tell."""

    cpu: float
    peak: float


def main() -> None:
    """Prints medians and ratios; a missed bound is no error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="Folder of a demo that has run; default: one is run first.")
    parser.add_argument(_PREPARE, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(_NODE, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.prepare:
        prepare(arguments.root)
    elif arguments.node:
        start(arguments.root, arguments.node)
        print(peak_mebibytes())
    else:
        with tempfile.TemporaryDirectory() as directory:
            root = arguments.root or Path(directory)
            if not arguments.root:
                _cost([_flexunet(), "demo", "--root", str(root)], tells=False)
            show(measure(root))


def measure(root: Path) -> dict[str, Cost]:
    """Medians; the processes take turns, so that what else the machine does strikes all of them alike."""
    ours = [sys.executable, "-m", "benchmarks.start", "--root", str(root)]
    _cost([*ours, _PREPARE], tells=False)
    records = str(root / "data" / "records")
    commands = {
        BASE: [sys.executable, "-c", _IMPORT],
        **{node: [*ours, _NODE, node] for node in USER_CODE},
        RUN: [_flexunet(), "run", "--config", "demo", "--data", records, "--root", str(root)],
    }
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            costs[name].append(_cost(command, tells=name != RUN))
    return {
        name: Cost(statistics.median(c.cpu for c in found), statistics.median(c.peak for c in found))
        for name, found in costs.items()
    }


def prepare(root: Path) -> None:
    """Writes the compiled pipeline of a run that is all cached, in which each node can be launched again."""
    from pipeline.launch import compile_run, run_node

    ir = compile_run(_pipeline(root), _RUN_ID)
    for node in ir.nodes:
        run_node(ir, node.pipeline_node, _database(root))
    _compiled(root).write_bytes(ir.SerializeToString())


def start(root: Path, name: str) -> None:
    """Launches one node as the containers on a cluster and the local runner do; its outputs come from the cache."""
    from tfx.proto.orchestration import pipeline_pb2

    from pipeline.launch import run_node

    ir = pipeline_pb2.Pipeline.FromString(_compiled(root).read_bytes())
    [node] = [node.pipeline_node for node in ir.nodes if node.pipeline_node.node_info.id == name]
    assert run_node(ir, node, _database(root)).cached, f"{name} ran: has the demo of {root} the code of this checkout?"
    for module in USER_CODE[name]:
        importlib.import_module(module)


def show(costs: dict[str, Cost]) -> None:
    """A table: seconds, MiB, and both against the import of TFX."""
    base = costs[BASE]
    table = Table("start", "CPU s", "ratio", "bound", "peak MiB", "ratio", "bound", box=None)
    for name, cost in costs.items():
        cpu_bound, memory_bound = ("", "") if name == BASE else map(str, NODE_AT_MOST)
        if name == RUN:
            cpu_bound, memory_bound = str(RUN_AT_MOST), ""
        memory = ("", "") if name == RUN else (f"{cost.peak:.0f}", f"{cost.peak / base.peak:.2f}")
        table.add_row(name, f"{cost.cpu:.1f}", f"{cost.cpu / base.cpu:.2f}", cpu_bound, *memory, memory_bound)
    Console().print(table)


def _cost(command: Sequence[str], tells: bool) -> Cost:
    """Runs it; `tells`: its last line is its peak. A model that the gate refuses is no failure here.

    Raises:
      SystemExit: it failed.
    """
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors, env=environment)  # noqa: S603 - our own
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0), errors.seek(0)
        lines = output.read().splitlines()
        if process.returncode not in (0, 2):
            raise SystemExit(f"{' '.join(command)} exited with {process.returncode}:\n{errors.read()[-2000:]}")
    return Cost(usage.ru_utime + usage.ru_stime, float(lines[-1]) if tells else float("nan"))


def _pipeline(root: Path) -> "Pipeline":
    from pipeline import dag

    paths = dag.Paths(data=str((root / "data" / "records").resolve()), root=str(root.resolve()))
    return dag.create_pipeline(load_config("demo", ()), paths, _connection(root))


def _database(root: Path) -> "metadata.Metadata":
    from tfx.orchestration import metadata

    return metadata.Metadata(_connection(root))


def _connection(root: Path) -> "metadata_store_pb2.ConnectionConfig":
    from tfx.orchestration import metadata

    return metadata.sqlite_metadata_connection_config(str(Root(root.resolve()).metadata))


def _compiled(root: Path) -> Path:
    return root / "start.pb"


def _flexunet() -> str:
    return str(Path(sys.executable).with_name("flexunet"))


if __name__ == "__main__":
    main()
