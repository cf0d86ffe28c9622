"""The peak memory of a process, as Linux tells it."""

from flexunet.serving.memory import resident_megabytes


def peak_mebibytes() -> float:
    """Of the resident pages of this process.

    Not `getrusage`'s ru_maxrss, which a new process takes over from the one that started it: started by a test run of
    3 GB, whatever it is has a peak of 3 GB.
    """
    return resident_megabytes("VmHWM")
