"""How long training has taken, interruptions left out."""

import time


class Clock:
    """Starts at `spent` seconds, those of the process before, and runs from `start()` on."""

    def __init__(self) -> None:
        self.spent, self._started = 0.0, time.monotonic()

    def start(self, spent: float = 0.0) -> None:
        """Sets the seconds that were spent before now."""
        self.spent, self._started = spent, time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training until now."""
        return self.spent + time.monotonic() - self._started
