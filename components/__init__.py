"""TFX nodes beyond the stock ones, and what the Evaluator measures."""

from flexunet.core import postponed  # noqa: F401 - before anything of TFX
