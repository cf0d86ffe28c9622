"""One training of a study in a process of its own: trains, exports, and measures the export on what it never saw.

    python -m pipeline.study.training DIR/spec.json

What is finished is not done again: the export is kept until its folder is removed, and the measurement has a name that
follows from the gate's settings. A training that was killed goes on after its last finished epoch.
"""

import logging
import os
import pickle
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel

from flexunet.core import features
from flexunet.core.config.gate import GateSettings
from flexunet.core.config.train import TrainerConfig

if TYPE_CHECKING:
    from components.measurement import Totals

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
    cores: list[int] = []


def export_in(directory: Path) -> Path:
    """The SavedModel of a training."""
    return directory / "export"


def read_totals(path: Path) -> "Totals":
    """What a training was measured to be; written by this module, never by others."""
    with path.open("rb") as file:
        return pickle.load(file)  # noqa: S301  our own file


def main(path: Path) -> None:
    """Does what is missing."""
    spec = Spec.model_validate_json(path.read_text(encoding="utf-8"))
    # TensorFlow makes as many threads as there are cores that it may use.
    os.sched_setaffinity(0, spec.cores)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    directory = path.parent
    export = export_in(directory)
    if not export.is_dir():
        _train(spec, directory)
    totals = directory / spec.totals
    aside = totals.with_suffix(".incomplete")
    aside.write_bytes(pickle.dumps(_measure(export, spec)))
    aside.rename(totals)


def _train(spec: Spec, directory: Path) -> None:
    from trainer_module.export import export_model
    from trainer_module.trainer import Job, train

    patterns = [str(path) for path in spec.train], [str(path) for path in spec.steering]
    job = Job(*patterns, directory / "logs", directory / "checkpoints", spec.code)
    trained = train(job, spec.config)
    aside = directory / ".export.incomplete"
    facts = {"parameters": trained.model.count_params(), "epochs": trained.epochs}
    export_model(trained.model, spec.config, {**facts, "train_seconds": round(trained.seconds, 1)}, aside)
    aside.rename(export_in(directory))
    trained.checkpoint.discard()


def _measure(export: Path, spec: Spec) -> "Totals":
    """By the signature and the sums of the Evaluator."""
    import tensorflow as tf

    from components.measurement import Totals, measure_image

    model = tf.saved_model.load(str(export))
    evaluate = model.signatures[features.SIGNATURE_EVALUATE]
    totals = Totals()
    files = [str(path) for path in spec.measured]
    for records in tf.data.TFRecordDataset(files, "GZIP").batch(_ROWS):
        outputs = {name: value.numpy() for name, value in evaluate(records).items()}
        for row in range(len(outputs[features.OUTPUT_IMAGE_ID])):
            image = measure_image({name: values[row] for name, values in outputs.items()}, {}, spec.settings)
            totals.add(image, spec.settings)
    return totals


if __name__ == "__main__":
    main(Path(sys.argv[1]))
