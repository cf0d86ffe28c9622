"""The peak memory of a process, as Linux tells it."""

from pathlib import Path


def peak_mebibytes() -> float:
    """Of the resident pages of this process.

    Not `getrusage`'s ru_maxrss, which a new process takes over from the one that started it: started by a test run of
    3 GB, whatever it is has a peak of 3 GB.
    """
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024
