"""One training of a study in a process of its own: trains, and measures what came of it on what it never saw.

    python -m pipeline.study.training DIR/spec.json

What is finished is not done again: a training's folder is named by a hash of all that decides the weights, and its
measurement by one of all that decides it, so that other symmetries or another bootstrap train nothing. A training that
was killed goes on after its last finished epoch. It ends with its standard input, which a study holds: one that was
killed leaves no training behind that the next would run beside.
"""

import io
import logging
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from pydantic import BaseModel

from flexunet.core.config.gate import GateSettings
from flexunet.core.config.train import TrainerConfig
from flexunet.core.features import EXPORTED_TRAINING, OUTPUT_IMAGE_ID
from flexunet.core.files import read_json, replace_file, write_json
from flexunet.core.results.training import TrainingFacts

if TYPE_CHECKING:
    from components.measurement import Totals

_WEIGHTS: Final = "weights.npz"
# Exit code of a training whose study is no more.
LEFT_ALONE: Final = 75
# Rows that are decoded and predicted together.
_ROWS: Final = 32


class Spec(BaseModel):
    """What a training reads; it writes beside its own file.

    Attributes:
      name: of the training, for messages.
      config: what it trains with.
      settings: what the measurement reads.
      train: files of tiles that are learnt from.
      steering: files of tiles that choose the weights.
      measured: files of records that are predicted.
      totals: name of the file that the measurement goes to.
      code: fingerprint, part of a checkpoint's key.
      encoder: hash of the file of the encoder's weights, "" without one.
      cores: the processor cores that it may use, which the runner gives it.
    """

    name: str
    config: TrainerConfig
    settings: GateSettings
    train: list[Path]
    steering: list[Path]
    measured: list[Path]
    totals: str
    code: str
    encoder: str = ""
    cores: list[int] = []


def read_weights(directory: Path) -> list[np.ndarray]:
    """What a training came to, in the order of `model.weights`."""
    with np.load(directory / _WEIGHTS, allow_pickle=False) as file:
        return [file[name] for name in file.files]


def read_facts(directory: Path) -> TrainingFacts:
    """What a training left beside its weights."""
    return read_json(directory / EXPORTED_TRAINING)


def main(path: Path) -> None:
    """Does what is missing."""
    spec = Spec.model_validate_json(path.read_text(encoding="utf-8"))
    # TensorFlow makes as many threads as there are cores that it may use.
    os.sched_setaffinity(0, spec.cores)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from components.totals_file import write_totals

    directory = path.parent
    if not (directory / _WEIGHTS).is_file():
        _train(spec, directory)
    write_totals(directory / spec.totals, _measure(spec, directory))


def _end_with_the_study() -> None:
    # Not by sys.stdin, whose lock would be held when Python ends.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(LEFT_ALONE)


def _train(spec: Spec, directory: Path) -> None:
    from trainer_module.trainer import Job, check_encoder, train

    # The folder is named by the file as it was when the study began.
    check_encoder(spec.config.train, {"encoder": spec.encoder})
    patterns = [str(path) for path in spec.train], [str(path) for path in spec.steering]
    job = Job(*patterns, directory / "logs", directory / "checkpoints", spec.code)
    trained = train(job, spec.config)
    write_json(directory / EXPORTED_TRAINING, trained.facts(spec.code, spec.encoder))
    weights = io.BytesIO()
    np.savez(weights, *trained.model.get_weights())
    replace_file(directory / _WEIGHTS, weights.getvalue())
    trained.checkpoint.discard()


def _measure(spec: Spec, directory: Path) -> "Totals":
    """By the signature and the sums of the Evaluator, with the symmetries that are asked for now."""
    from components.measurement import Totals, measure_image
    from trainer_module.export import SegmentationModule
    from trainer_module.model import build_model
    from transform_module.pipelines import read_records

    model = build_model(spec.config)
    model.set_weights(read_weights(directory))
    module = SegmentationModule(model, spec.config)
    totals = Totals()
    for records in read_records(spec.measured).batch(_ROWS):
        outputs = {name: value.numpy() for name, value in module.evaluate(records).items()}
        for row in range(len(outputs[OUTPUT_IMAGE_ID])):
            image = measure_image({name: values[row] for name, values in outputs.items()}, {}, spec.settings)
            totals.add(image, spec.settings)
    return totals


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_study, daemon=True).start()
    main(Path(sys.argv[1]))
