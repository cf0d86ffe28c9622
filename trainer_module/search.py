"""A search for better settings: KerasTuner's Bayesian optimization over our own training, within a budget in seconds.

KerasTuner counts trials, and its own tuners call Keras' `fit`. Here each trial is `trainer.train` with other settings:
the same schedule, early stopping, averages and checkpoints as the training that follows. What was tried is kept in a
folder named by all that decides it: a search that was killed goes on, and so does one that gets a larger budget.
"""

import logging
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

import keras
import keras_tuner
import tensorflow as tf
from keras_tuner import errors, oracles
from keras_tuner.engine import base_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from flexunet.core import features
from flexunet.core.config.section import Scalar
from flexunet.core.config.train import TrainerConfig
from flexunet.core.config.tune import Range, TunerConfig, kind_of_numbers
from flexunet.core.encoder_file import encoder_digest
from flexunet.core.epochs import best_epoch, read_history
from flexunet.core.errors import last_line
from flexunet.core.results import tuning
from trainer_module.checkpoint import checkpoint_key
from trainer_module.trainer import Job, expand, train

_OBJECTIVE: Final = keras_tuner.Objective("foreground_dice", "max")
# Of KerasTuner: a bound on trials, where ours is one on seconds.
_MOST_TRIALS: Final = 9999
# Since the last trial that came to its end. Trainings that fail one after the other mostly have one reason, and take
# the seconds of others; values that exclude each other take none.
_MOST_FAILED: Final = 3
_MOST_REFUSED: Final = 100
# In a trial's first epoch: a model that is too large for the memory would end the process at each try.
_MOST_KILLED: Final = 2

logger = logging.getLogger("flexunet.train")


class _Spent(NamedTuple):
    """What a trial took, which KerasTuner has no place for."""

    epochs: int
    seconds: float


def open_search(job: Job, config: TunerConfig, directory: Path) -> "Search":
    """A search that goes on with its trials of before.

    Args:
      job: what is learnt from and what steers.
      config: settings and the space around them.
      directory: gets a folder for the search; those of others, which nothing could go on with, are removed.
    """
    files = [*expand(job.train_patterns), *expand(job.eval_patterns)]
    key = checkpoint_key([config.search_json(), job.code, encoder_digest(config.train)], files)
    for other in directory.glob("*"):
        if other.name != key and other.is_dir():
            shutil.rmtree(other)
    own = directory / key
    job = replace(job, log_directory=own / "logs", checkpoints=own / "checkpoints")
    try:
        return Search(job, config, own)
    except (ValueError, KeyError, RuntimeError) as error:
        # KerasTuner writes in place: a kill leaves half a file.
        logger.warning("%s cannot be read (%s): the search begins anew", own, last_line(error))
        shutil.rmtree(own)
        return Search(job, config, own)


class Search(base_tuner.BaseTuner):
    """Trials of `config.tune.space`; what TFX's Tuner runs and reads.

    The first trial is the configuration as it is, where the space holds it: what is found is no worse on `eval`.
    """

    def __init__(self, job: Job, config: TunerConfig, directory: Path) -> None:
        self._job, self._config = job, config
        self._spent: dict[str, _Spent] = {}
        self._ended_before = 0
        oracle = _Oracle(config, self._is_over)
        oracle.verbose = 0
        super().__init__(oracle, directory=str(directory.parent), project_name=directory.name)

    def search(self, *arguments: object, **named: object) -> None:
        """Raises ValueError where no trial came to its end; says how many did not."""
        self._ended_before = len(self.oracle.end_order)
        super().search(*arguments, **named)
        rows = self._rows()
        failed = [row["problem"] for row in rows if row["foreground_dice"] is None]
        if len(failed) == len(rows):
            raise ValueError(f"no trial of the search came to its end: {len(rows)} failed, the last with {failed[-1]}")
        if failed:
            logger.warning("%d of %d trials failed, the last with %s", len(failed), len(rows), failed[-1])
        if self._gives_up():
            logger.warning("the search ended before its seconds: too many trials failed one after the other")

    def run_trial(self, trial: Trial, *_: object, **__: object) -> dict[str, float]:
        """Trains with the values of a trial; returns the foreground Dice on `eval` of the weights that are kept.

        Raises:
          FailedTrialError: values that exclude each other, or a training that failed; the search goes on.
        """
        number, values = len(self.oracle.trials), trial.hyperparameters.values
        words = ", ".join(f"{key} = {value}" for key, value in values.items())
        logger.info("trial %d: %s", number, words)
        try:
            dice = self._dice_of(trial.trial_id, self._settings(values))
        except (ValueError, tf.errors.OpError) as error:
            logger.warning("trial %d failed: %s", number, last_line(error))
            raise errors.FailedTrialError(last_line(error)) from error
        logger.info("trial %d: eval foreground Dice %.4f", number, dice)
        return {_OBJECTIVE.name: dice}

    def _dice_of(self, trial_id: str, settings: TrainerConfig) -> float:
        """Trains; what that took is in `_spent`, also where it failed."""
        started = time.monotonic()
        keras.utils.clear_session()
        epochs, seconds = 0, 0.0
        mark = self._job.checkpoints.with_name(f"begun-{trial_id}")
        try:
            self._begin(mark)
            with _forgotten_when_asked_to_end(mark):
                trained = train(self._job, settings)
            trained.checkpoint.discard()
            epochs, seconds = trained.epochs, trained.seconds
            return self._score(settings.train.monitor)
        finally:
            mark.unlink(missing_ok=True)
            # A training that was killed brings the seconds before along.
            self._spent[trial_id] = _Spent(epochs, max(seconds, time.monotonic() - started))
            shutil.rmtree(self._job.log_directory, ignore_errors=True)

    def _begin(self, mark: Path) -> None:
        """Counts in a file that only a process leaves behind which is killed without being asked to end.

        Raises:
          ValueError: too many were, and no epoch was finished to go on with.
        """
        killed = mark.stat().st_size if mark.is_file() else 0
        if killed >= _MOST_KILLED and not any(self._job.checkpoints.glob("*.npz")):
            raise ValueError(f"its process was killed {killed} times in the first epoch; most often memory runs out")
        mark.write_bytes(b"." * (killed + 1))

    def document(self) -> tuning.Tuning:
        """All trials, as `tuning.json` has them."""
        [best] = self.oracle.get_best_trials()
        return {
            "format": tuning.FORMAT,
            "budget_seconds": self._config.tune.seconds,
            "trials": self._rows(),
            "best": sorted(self.oracle.trials).index(best.trial_id) + 1,
        }

    def get_state(self) -> dict[str, Any]:
        """What KerasTuner writes after each trial."""
        return {"spent": self._spent}

    def set_state(self, state: dict[str, Any]) -> None:
        """What it read."""
        self._spent = {trial: _Spent(*spent) for trial, spent in state["spent"].items()}

    def _rows(self) -> list[tuning.Trial]:
        rows: list[tuning.Trial] = []
        for number, trial in enumerate(self.oracle.trials[name] for name in sorted(self.oracle.trials)):
            spent = self._spent.get(trial.trial_id, _Spent(0, 0.0))
            rows.append(
                {
                    "trial": number + 1,
                    "values": dict(trial.hyperparameters.values),
                    "foreground_dice": float(trial.score) if trial.status == TrialStatus.COMPLETED else None,
                    "epochs": spent.epochs,
                    "seconds": round(spent.seconds, 1),
                    "problem": _last_words(trial.message) if trial.message else None,
                }
            )
        return rows

    def _settings(self, values: Mapping[str, Scalar]) -> TrainerConfig:
        tuned = self._config.tuned(values)
        if problems := list(tuned.contradictions()):
            raise ValueError("; ".join(problems))
        given = {"preview_images": 0, "max_seconds": self._config.tune.trial_seconds or tuned.train.max_seconds}
        return tuned.model_copy(update={"train": tuned.train.model_copy(update=given)})

    def _score(self, monitor: str) -> float:
        """Of the epoch whose weights were kept, by the trial's own `train.monitor`."""
        history = read_history(self._job.log_directory / features.TRAINING_HISTORY)
        best = best_epoch(history, monitor)
        if best is None:
            raise ValueError("no epoch has a foreground Dice: the training diverged")
        return next(row["val_foreground_dice"] for row in history if row["epoch"] == best)

    def _is_over(self) -> bool:
        """Whether a trial as long as the longest would end after the budget; the first is always begun."""
        seconds = [spent.seconds for spent in self._spent.values()]
        return self._gives_up() or (bool(seconds) and sum(seconds) + max(seconds) > self._config.tune.seconds)

    def _gives_up(self) -> bool:
        """Whether too many trials failed one after the other, since the search was begun or gone on with."""
        ended = [self.oracle.trials[name] for name in self.oracle.end_order[self._ended_before :]]
        failed = list(takewhile(lambda trial: trial.status == TrialStatus.FAILED, reversed(ended)))
        trained = sum(trial.trial_id in self._spent for trial in failed)
        return trained >= _MOST_FAILED or len(failed) - trained >= _MOST_REFUSED


class _Oracle(oracles.BayesianOptimizationOracle):
    """KerasTuner's, which begins with the settings as they are, ends with the budget and tries nothing twice."""

    def __init__(self, config: TunerConfig, is_over: Callable[[], bool]) -> None:
        space = make_space(config)
        super().__init__(
            _OBJECTIVE,
            max_trials=_MOST_TRIALS,
            # Theirs is three times the number of keys: more than a night holds.
            num_initial_points=len(space.space) + 2,
            seed=config.tune.seed,
            hyperparameters=space,
            # Theirs raises, whatever there is to take, and does so again at each try.
            max_consecutive_failed_trials=_MOST_TRIALS + 1,
        )
        self._own, self._is_over = own_values(config), is_over

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The values of the next trial, or the end."""
        if self._is_over():
            return {"status": TrialStatus.STOPPED, "values": None}
        if self._own and not self.trials:
            return {"status": TrialStatus.RUNNING, "values": self._own}
        # Their model of the scores leaves out what failed, and would propose it again and again.
        if self.end_order and self.trials[self.end_order[-1]].status == TrialStatus.FAILED:
            return self._random_populate_space()
        response = super().populate_space(trial_id)
        if response["values"] and self._duplicate(response["values"]):
            return self._random_populate_space()
        return response


@contextmanager
def _forgotten_when_asked_to_end(mark: Path) -> Iterator[None]:
    """SIGTERM, as of a preempted machine, says nothing of memory: it removes `mark` and does what it did before.

    It does so between two steps of the training: what kills the process sooner looks like a lack of memory.
    """
    # Others cannot take signals.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL

    def end(number: int, _: FrameType | None) -> None:
        mark.unlink(missing_ok=True)
        signal.signal(number, before)
        signal.raise_signal(number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def make_space(config: TunerConfig) -> keras_tuner.HyperParameters:
    """KerasTuner's form of `tune.space`, each value of the kind that its key takes."""
    space = keras_tuner.HyperParameters()
    for key, candidates in config.tune.space.by_key().items():
        if not isinstance(candidates, Range):
            numbers = any(isinstance(value, float) for value in candidates)
            space.Choice(key, [float(value) for value in candidates] if numbers else list(candidates))
            continue
        number = space.Int if _takes_whole(config, key) else space.Float
        number(key, candidates.low, candidates.high, sampling="log" if candidates.log else "linear")
    return space


def own_values(config: TunerConfig) -> dict[str, Scalar] | None:
    """The settings as they are, where each is among what is tried."""
    own: dict[str, Scalar] = {}
    for key, candidates in config.tune.space.by_key().items():
        value = _value(config, key)
        if isinstance(candidates, Range):
            inside = value is not None and candidates.low <= value <= candidates.high
        else:
            inside = value in candidates
        if not inside:
            return None
        own[key] = value
    return own


def _value(config: TunerConfig, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def _takes_whole(config: TunerConfig, key: str) -> bool:
    section, _, name = key.partition(".")
    return kind_of_numbers(type(getattr(config, section)), name) is int


def _last_words(message: str) -> str:
    """Of a traceback, without the name of KerasTuner's error; an error without words is its name."""
    line = message.strip().splitlines()[-1]
    return line.partition(": ")[2] or line
