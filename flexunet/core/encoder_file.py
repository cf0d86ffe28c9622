"""The file of weights that an encoder begins with, known by its content: its path says nothing of it."""

from pathlib import Path

from flexunet.core.config.train import TrainConfig
from flexunet.core.errors import UserError
from flexunet.core.files import file_sha256


def encoder_digest(config: TrainConfig) -> str:
    """sha256 of the file at `train.encoder_weights`; "" where none is asked for.

    Raises:
      UserError: it cannot be read.
    """
    if not config.encoder_weights:
        return ""
    try:
        return file_sha256(Path(config.encoder_weights))
    except OSError as error:
        raise UserError(
            f"train.encoder_weights: {config.encoder_weights}: {error.strerror}, expected a file of weights as Keras "
            "publishes it, such as efficientnetv2-b0_notop.h5: nothing is downloaded (docs/how-to/best-model.md)"
        ) from None
