"""Apache Beam's options per runner."""

from collections.abc import Sequence
from typing import Final

# For every Beam node TFX packs its own source, 1.4 s of CPU and 42 MB that stay in the temporary folder, unless the
# arguments say what workers run in. Ours are threads of the node's process: no local runner reads this image's name.
IN_PROCESS: Final = "--sdk_container_image=none"
# Beam's default local runner downloads a Prism binary from GitHub; this one is inside the package. One process: the
# nodes share the models they load.
LOCAL_BEAM_ARGS: Final = (
    "--runner=FnApiRunner",
    "--direct_running_mode=in_memory",
    "--direct_num_workers=1",
    IN_PROCESS,
)


def beam_args(given: Sequence[str], ours: Sequence[str] = LOCAL_BEAM_ARGS) -> list[str]:
    """`ours`, then `given`, which count; another runner's workers need code and an image: without `IN_PROCESS`."""
    names_runner = any(argument.partition("=")[0] == "--runner" for argument in given)
    return [*(argument for argument in ours if not (names_runner and argument == IN_PROCESS)), *given]
