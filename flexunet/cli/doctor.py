"""`flexunet doctor`: what it looks at, and what it prints."""

import importlib.metadata
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click

from flexunet.cli.command import Command
from flexunet.cli.console import NO_LOG, captured_output, print_result
from flexunet.cli.options import AS_JSON
from flexunet.core.errors import UserError

_GIB: Final = 2**30
# The demo peaks at 1.7 GiB, 500 images of 512x512 at 1.7 too; a machine sold as 4 GB shows 3.8 GiB.
_LEAST_MEMORY: Final = 3 * _GIB
_LEAST_DISK: Final = 5 * _GIB
# The set that was run together; TFX's own pins refuse glibc < 2.39, see docs/decisions/0001.
_TESTED: Final = {
    "tfx": "1.21.0",
    "tensorflow": "2.21.0",
    "tensorflow-transform": "1.21.0",
    "tensorflow-model-analysis": "0.52.0",
    "tensorflow-data-validation": "1.16.1",
    "ml-metadata": "1.17.1",
    "apache-beam": "2.77.0",
}
_COMPONENTS: Final = (
    "ImportExampleGen",
    "StatisticsGen",
    "ExampleValidator",
    "Transform",
    "Trainer",
    "Evaluator",
    "Pusher",
)


@dataclass(frozen=True)
class Finding:
    """One look at the machine."""

    what: str
    found: str
    good: bool
    repair: str = ""


@click.command(cls=Command)
@AS_JSON
def doctor() -> None:
    """Checks this machine: versions, missing parts, memory, disk, GPU, and says what to do about each.

    Examples:
      flexunet doctor
    """
    from rich.text import Text

    from flexunet.cli.tables import busy, make_table

    with captured_output(NO_LOG) as console:
        with busy(console, "looking"):
            findings = check_machine()
        table = make_table(console, "", "what", "found", "what to do")
        for finding in findings:
            mark = Text("ok", "green") if finding.good else Text("bad", "bold red")
            table.add_row(mark, finding.what, finding.found, finding.repair)
        console.print(table)
    print_result([asdict(finding) for finding in findings])
    bad = [finding for finding in findings if not finding.good]
    if bad:
        raise UserError("\n".join(f"{f.what}: {f.found}: {f.repair}" for f in bad))


def check_machine() -> list[Finding]:
    """Looks at everything; never raises for what it finds."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (_versions, _components, _memory, _disk, _gpu)
    return [finding for check in checks for finding in check()]


def _versions() -> Iterator[Finding]:
    for package, tested in _TESTED.items():
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(package, "not installed", False, "install the extra `pipeline`, or run `make demo`")
            continue
        yield Finding(package, found, found == tested, "" if found == tested else f"{tested} is what was tested")


def _components() -> Iterator[Finding]:
    """TFX turns import errors of its own components into None."""
    try:
        from tfx.v1 import components
    except ImportError as error:
        yield Finding("tfx components", f"cannot be imported: {error}", False, "install the extra `pipeline`")
        return
    missing = [name for name in _COMPONENTS if getattr(components, name, None) is None]
    repair = "one of their imports fails; reinstall from the lock with `make clean setup`" if missing else ""
    yield Finding("tfx components", f"missing: {', '.join(missing)}" if missing else "all there", not missing, repair)


def _memory() -> Iterator[Finding]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _cgroup_limit()
    usable = min(total, limit) if limit else total
    good = usable >= _LEAST_MEMORY
    yield Finding("memory", f"{usable / _GIB:.1f} GiB", good, "" if good else "3 GiB are needed")


def _cgroup_limit() -> int | None:
    path = Path("/sys/fs/cgroup/memory.max")
    text = path.read_text().strip() if path.is_file() else "max"
    return int(text) if text.isdigit() else None


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free
    good = free >= _LEAST_DISK
    yield Finding("free disk here", f"{free / _GIB:.1f} GiB", good, "" if good else "5 GiB are advisable")


def _gpu() -> Iterator[Finding]:
    try:
        import tensorflow as tf
    except ImportError:
        return
    gpus: list[Any] = tf.config.list_physical_devices("GPU")
    hint = "" if gpus else "none is needed; for one, install the extra `gpu` and the NVIDIA driver"
    yield Finding("GPU", f"{len(gpus)} found" if gpus else "none", True, hint)
