"""Apache Beam's options per runner."""

from typing import Final

# Beam's default local runner downloads a Prism binary from GitHub; this one is inside the package. One process: the
# nodes share the models they load.
LOCAL_BEAM_ARGS: Final = ("--runner=FnApiRunner", "--direct_running_mode=in_memory", "--direct_num_workers=1")
