"""A model folder in this process, through TensorFlow's C API: it loads in half a second, and as TF Serving loads it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flexunet.core.errors import UserError
from flexunet.serving.c_api import SavedModel, SavedModelError
from flexunet.serving.transport import Closing, ServingError
from flexunet.serving.versions import model_directory


class LocalModel(Closing):
    """Needs the tensorflow package for its library, and does not import it."""

    def __init__(self, directory: Path) -> None:
        self.directory = model_directory(directory)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        try:
            self._model = SavedModel(self.directory)
        except SavedModelError as error:
            raise UserError(_one_line(error)) from error

    def run(
        self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Runs a signature: see `flexunet.serving.transport.Model.run`."""
        try:
            found = self._model.run(signature, inputs)
        except SavedModelError as error:
            raise ServingError(_one_line(error)) from error
        return {name: array for name, array in found.items() if not outputs or name in outputs}

    def close(self) -> None:
        self._model.close()


def _one_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
