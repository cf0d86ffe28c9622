"""What runs, and where: the only wiring, the gate's evaluation, code fingerprints, the local runner."""

from flexunet.core import postponed  # noqa: F401 - before anything of TFX
