"""`flexunet run`."""

import contextlib
import datetime
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flexunet.cli.command import Command
from flexunet.cli.console import captured_output
from flexunet.cli.options import ACCEPT_REFUSED, AS_JSON, CONFIG, DATA, PATH, ROOT, SET
from flexunet.core.disk import words_in, words_of
from flexunet.core.errors import NodeFailed
from flexunet.core.root import Root

if TYPE_CHECKING:
    from rich.console import Console

    from flexunet.core.config.whole import Config
    from flexunet.core.results.metrics import Metrics
    from pipeline.cli.board import Board
    from pipeline.cli.outcome import Refusal

RESUMES = "finished nodes stay in the cache, and a training goes on after its last finished epoch"


@click.command(cls=Command, interrupted=RESUMES)
@CONFIG
@DATA
@ROOT
@SET
@click.option(
    "--from-model",
    type=PATH,
    metavar="MODEL_DIR",
    help="Judges and pushes this export, of `flexunet import model` or of a run, instead of training one.",
)
@click.option("--beam-arg", "beam_args", multiple=True, help="Argument of Apache Beam, after those of [beam].options.")
@ACCEPT_REFUSED
@AS_JSON
def run(
    config: str,
    data: Path,
    root: Path,
    overrides: tuple[str, ...],
    from_model: Path | None,
    beam_args: tuple[str, ...],
    accept_refused: str | None,
) -> None:
    """Trains, measures, judges, and pushes the model if it is good enough.

    Examples:
      flexunet run --config mine.toml --data records --root runs/mine
      flexunet run --config mine.toml --data records --root runs/mine --set train.epochs=20 --json
      flexunet run --config mine.toml --data records --root runs/mine --from-model imported
      flexunet run --config mine.toml --data records --root runs/mine --accept-refused "the line stands still"
    """
    from flexunet.cli.tables import print_warning
    from flexunet.core.config.load import load_config
    from flexunet.core.lock import locked
    from flexunet.dataset.compatible import check_data
    from flexunet.serving.signing import check_key
    from flexunet.serving.versions import model_directory
    from pipeline.cli.outcome import conclude

    loaded = load_config(config, overrides)
    check_key(loaded.serving.signing_key)
    model = model_directory(from_model) if from_model else None
    warnings = [check_data(data, loaded, training=model is None), *(check_imported(model, loaded) if model else [])]
    log = log_file(root)
    with locked(root), captured_output(log) as console:
        for warning in filter(None, warnings):
            print_warning(warning, console)
        metrics, refusal = run_and_show(loaded, data, root, beam_args, console, log, accept_refused or "", model)
    conclude(metrics, refusal)


def check_imported(model: Path, config: "Config") -> list[str]:
    """Words about sections that do not count; raises UserError for a model that this config cannot judge."""
    from flexunet.core.config.train import TrainerConfig
    from flexunet.serving.exported import check_exported, exported_operating_point, exported_part

    check_exported(model, config)
    own = exported_part(model, TrainerConfig)
    other = [f"[{name}]" for name in ("image", "model") if getattr(own, name) != getattr(config, name)]
    warnings = [f"{model}: its own {' and '.join(other)} count, the config says otherwise"] if other else []
    point = exported_operating_point(model)
    target, asked = point["target"] if point else "", config.operating_point.target
    if target != asked:
        words = f"operating_point.target is {asked!r}, but only a training chooses thresholds"
        has = f"it has those of {target!r}" if target else "it has none, every pixel has its most probable class"
        warnings.append(f"{model}: {words}: {has}")
    return warnings


def log_file(root: Path) -> Path:
    """Where what libraries print goes, a file for each command that runs the pipeline."""
    return Root(root).logs / f"{datetime.datetime.now():%Y%m%d-%H%M%S}.log"


def run_and_show(
    config: "Config",
    data: Path,
    root: Path,
    beam_args: Sequence[str],
    console: "Console",
    log: Path,
    accept_refused: str = "",
    from_model: Path | None = None,
) -> tuple["Metrics", "Refusal | None"]:
    """Shows the nodes and what came out; returns what metrics.json holds, and the refusal, if there is one."""
    from flexunet.cli.tables import busy
    from flexunet.core.beam import prepare_beam
    from flexunet.core.config.beam import BEAM_NODES
    from pipeline.cli.outcome import print_outcome

    with busy(console, "loading TFX"):
        from pipeline import local
        from pipeline.measure import check_model
    if from_model:
        check_model(from_model, config)
    prepare_beam(config.beam, beam_args, BEAM_NODES)
    with shown_nodes(root, console, log) as board:
        metrics = local.run(config, data, root, beam_args, board.ended, accept_refused, board.started, from_model)
    return metrics, print_outcome(metrics, root, console)


@contextlib.contextmanager
def shown_nodes(root: Path, console: "Console", log: Path) -> Iterator["Board"]:
    """A board of the nodes that run in it.

    Raises:
      NodeFailed: one of them failed; names the log, which has the traceback.
    """
    from pipeline.cli.board import Board

    try:
        with Board(console) as board:
            yield board
    except Exception as error:
        # A full disk may be the very reason.
        with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as file:
            traceback.print_exc(file=file)
        raise NodeFailed(f"{_what_failed(error, root)}\nfull log: {log}") from error


def _what_failed(error: Exception, root: Path) -> str:
    if isinstance(error, NodeFailed):
        return str(error)
    if isinstance(error, OSError):
        return f"the run failed: {words_of(error)}"
    # ML Metadata's own error shows the whole statement that it could not store.
    words = words_in(str(error))
    return f"the run failed: {root}: {words}" if words else f"the run failed: {type(error).__name__}: {error}"
