"""`run_fn`: model, augmentation, data, losses, metrics, callbacks, checkpoints, export."""

from flexunet.core import postponed  # noqa: F401 - before anything of TFX
