"""This process's memory, as Linux counts it."""

import contextlib
import re
from pathlib import Path
from typing import Final

_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")
_RESET_PEAK: Final = "5"


def resident_megabytes(field: str = "VmRSS") -> float:
    """Resident memory now (`VmRSS`) or at its peak (`VmHWM`), in MiB."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    if found is None:
        raise OSError(f"{_STATUS} has no {field}, expected Linux's")
    return int(found[1]) / 1024


class PeakMemory:
    """Starts anew to watch the peak: what is idle is what is resident now.

    Attributes:
      idle_megabytes: that, or None where the kernel tells no peak or begins no new one, as gVisor's.
    """

    def __init__(self) -> None:
        self.idle_megabytes: float | None = None
        with contextlib.suppress(OSError):
            _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
            # Raises where the kernel tells no peak.
            resident_megabytes("VmHWM")
            self.idle_megabytes = resident_megabytes()

    def megabytes_above_idle(self) -> float | None:
        """The peak since this watch began; None as `idle_megabytes`."""
        if self.idle_megabytes is None:
            return None
        return max(0.0, resident_megabytes("VmHWM") - self.idle_megabytes)
