"""`preprocessing_fn`, and the one decoding and resizing in the graph."""

from flexunet.core import postponed  # noqa: F401 - before anything of TFX
