"""Training that was killed goes on from its last finished epoch, bit for bit as if it had not been.

A checkpoint is one file of arrays, `<key>.npz`: weights, optimizer (averaged weights and the learning rate included),
random states, and what the callbacks remember. Its key is a hash of configuration, code and data, so that a changed
one never resumes; Keras' own BackupAndRestore has no key and forgets what the callbacks know.
"""

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TypedDict

import keras
import numpy as np
import tensorflow as tf

from trainer_module.callbacks import History
from trainer_module.clock import Clock

# What these know between epochs, beside the best weights.
_REMEMBERED: Final = {
    keras.callbacks.EarlyStopping: ("best", "best_epoch", "wait"),
    keras.callbacks.ReduceLROnPlateau: ("best", "wait", "cooldown_counter"),
}

logger = logging.getLogger("flexunet.train")


def checkpoint_key(parts: Sequence[str], files: Sequence[str]) -> str:
    """Key of configuration, code and what else `parts` say, and of the data by path, size and time of change."""
    facts = [(file, tf.io.gfile.stat(file)) for file in files]
    lines = [*parts, *(f"{file} {stat.length} {stat.mtime_nsec}" for file, stat in facts)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


class _State(TypedDict):
    """What is remembered beside arrays; `callbacks` by class and attribute."""

    epoch: int
    seconds: float
    callbacks: dict[str, dict[str, float | None]]
    history: str


class Checkpoint(keras.callbacks.Callback):
    """Saves when an epoch begins, that is when all callbacks are done with the one before; restores when training does.

    Stands last in the list of callbacks; `others` are those in front of it.
    """

    def __init__(self, directory: Path, key: str, others: Sequence[keras.callbacks.Callback], clock: Clock) -> None:
        super().__init__()
        self._path, self._others, self._clock = directory / f"{key}.npz", others, clock
        self._arrays, self._state = _read(self._path)

    @property
    def first_epoch(self) -> int:
        """The epoch to go on with; 0 where there is nothing to resume."""
        return self._state["epoch"] if self._state else 0

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        for other in self._path.parent.glob("*.npz*"):
            if other != self._path:
                other.unlink()
        if self._state:
            self._restore(self._state)
            logger.info("training goes on with epoch %d", self.first_epoch + 1)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if epoch > self.first_epoch:
            self._save(epoch)

    def discard(self) -> None:
        """Once there is a model, nothing is to be resumed."""
        self._path.unlink(missing_ok=True)

    def _variables(self) -> Iterator[tuple[str, keras.Variable]]:
        for kind, variables in (("model", self.model.variables), ("optimizer", self.model.optimizer.variables)):
            for index, variable in enumerate(variables):
                yield f"{kind}/{index}", variable

    def _save(self, epoch: int) -> None:
        arrays = {name: keras.ops.convert_to_numpy(variable) for name, variable in self._variables()}
        state: _State = {"epoch": epoch, "seconds": self._clock.seconds, "callbacks": {}, "history": ""}
        for callback in self._others:
            names = _REMEMBERED.get(type(callback), ())
            state["callbacks"][type(callback).__name__] = {n: _plain(getattr(callback, n)) for n in names}
            if isinstance(callback, keras.callbacks.EarlyStopping):
                arrays |= {f"best/{index}": weight for index, weight in enumerate(callback.best_weights or [])}
            if isinstance(callback, History):
                state["history"] = callback.path.read_text(encoding="utf-8")
        try:
            _write(self._path, {**arrays, "state": np.array(json.dumps(state))})
        except OSError as error:
            logger.warning("%s: %s: training goes on without a checkpoint", self._path, error.strerror)

    def _restore(self, state: _State) -> None:
        if not self.model.optimizer.built:
            with self.model.distribute_strategy.scope():
                self.model.optimizer.build(self.model.trainable_variables)
        for name, variable in self._variables():
            variable.assign(self._arrays[name])
        for callback in self._others:
            for name, value in state["callbacks"][type(callback).__name__].items():
                setattr(callback, name, value)
            if isinstance(callback, keras.callbacks.EarlyStopping):
                weights = [name for name in self._arrays if name.startswith("best/")]
                callback.best_weights = [self._arrays[f"best/{index}"] for index in range(len(weights))]
            if isinstance(callback, History):
                callback.path.write_text(state["history"], encoding="utf-8")
        self._clock.start(state["seconds"])
        self._arrays = {}


def _plain(value: np.generic | float | None) -> float | int | None:
    return value if value is None or isinstance(value, int) else float(value)


def _read(path: Path) -> tuple[dict[str, np.ndarray], _State | None]:
    if not path.is_file():
        return {}, None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        return arrays, json.loads(str(arrays.pop("state")))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        logger.warning("%s cannot be read (%s): training begins anew", path, error)
        return {}, None


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Aside, flushed, renamed: a kill leaves the checkpoint before, or this one."""
    aside = path.with_suffix(".npz.incomplete")
    with aside.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
