"""Names that the package sets and the nodes read, beside those of the database."""

from typing import Final

# How many GPUs a node was given: training on the CPU because of a wrong image would only be slow.
GPUS_VARIABLE: Final = "FLEXUNET_GPUS"
