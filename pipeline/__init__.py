from flexunet.core import postponed  # noqa: F401 - before anything of TFX
