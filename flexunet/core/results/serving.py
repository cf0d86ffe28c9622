"""`serving.json`: whether TF Serving can run the export, and what it costs."""

from pathlib import Path
from typing import Final, NotRequired, TypedDict

from flexunet.core.files import read_json
from flexunet.core.root import SERVING_FILE

# By which TFX's own InfraValidator blesses.
INFRA_BLESSED: Final = "INFRA_BLESSED"
NOT_CHECKED: Final = "the gate refused the model, so it was not checked for serving"


class Latency(TypedDict):
    """Seconds for one encoded image."""

    p50: float
    """median"""
    p95: float
    """the slowest in twenty"""


class BatchSpeed(TypedDict):
    """The warm-up's largest batch of encoded images."""

    rows: int
    """images in it"""
    images_per_second: float
    """how fast it is answered"""


class Findings(TypedDict):
    """What a check found; what was measured stands there if nothing failed before it."""

    problems: list[str]
    """sentences; none if the model can be served"""
    load_seconds: NotRequired[float]
    """from the folder to a model that answers"""
    idle_megabytes: NotRequired[float]
    """resident memory of the process then; left out, as the next, where the kernel tells no peak"""
    megabytes_above_idle: NotRequired[float]
    """how much more serving takes"""
    latency_seconds: NotRequired[Latency]
    """for one image"""
    batch: NotRequired[BatchSpeed]
    """for many at once"""


class Serving(Findings):
    """`serving.json`."""

    blessed: bool
    """whether every serving validator accepted the model"""
    rolled_back: NotRequired[int | None]
    """in the report of a run: the version under which this very model was rolled back"""


def read_serving(blessing: Path, server: Path | None = None) -> Serving:
    """What our validator found and, where TFX's own InfraValidator is configured, that it refused.

    Args:
      blessing: folder of our validator's blessing.
      server: that of InfraValidator's, or None.
    """
    found: Serving = read_json(blessing / SERVING_FILE)
    if server is not None and not (server / INFRA_BLESSED).exists():
        found["blessed"] = False
        found["problems"] = [*found["problems"], "TF Serving did not serve it: see InfraValidator in the log"]
    return found
