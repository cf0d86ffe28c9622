"""`flexunet doctor`: what it looks at, and what it prints."""

import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import click

from flexunet.cli.command import Command
from flexunet.cli.console import NO_LOG, captured_output, print_result
from flexunet.cli.options import AS_JSON
from flexunet.core.errors import UserError
from flexunet.core.install import checkout, installed_version, make_setup, pip_install, requirements
from flexunet.core.machine import usable_memory

_GIB: Final = 2**30
# The demo peaks at 1.7 GiB, 500 images of 512x512 at 1.7 too; a machine sold as 4 GB shows 3.8 GiB.
_LEAST_MEMORY: Final = 3 * _GIB
_LEAST_DISK: Final = 5 * _GIB
# CUDA's libraries come from PyPI.
GPU_SETUP: Final = ".uv/bin/uv sync --frozen --extra pipeline --extra kubeflow --extra signing --extra gpu"
_COMPONENTS: Final = (
    "ImportExampleGen",
    "StatisticsGen",
    "ExampleValidator",
    "Transform",
    "Tuner",
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

    Where the wheel alone is installed, only what the client needs can be bad; in a checkout also what training needs.

    Examples:
      flexunet doctor
    """
    from rich.text import Text

    from flexunet.cli.tables import busy, make_table

    findings: list[Finding] = []
    with captured_output(NO_LOG) as console:
        for words, check in checks():
            with busy(console, words):
                findings.extend(check())
        table = make_table(console, "", "what", "found")
        for finding in findings:
            mark = Text("ok", "green") if finding.good else Text("bad", "bold red")
            table.add_row(mark, finding.what, finding.found)
        console.print(table)
        # Below the table, where no width cuts a command; of what is bad the error line tells it.
        for finding in findings:
            if finding.good and finding.repair:
                console.print(f"{finding.what}: {finding.repair}")
    print_result([asdict(finding) for finding in findings])
    bad: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        if not finding.good:
            bad.setdefault((finding.found, finding.repair), []).append(finding.what)
    if bad:
        raise UserError("\n".join(f"{', '.join(what)}: {found}: {repair}" for (found, repair), what in bad.items()))


def checks() -> Iterator[tuple[str, Callable[[], Iterator[Finding]]]]:
    """What is looked at here, in words that stand there meanwhile; none of them raises for what it finds."""
    yield "looking at the installed versions", _client
    if checkout() is None:
        yield "looking at the installed versions", _extras
    else:
        yield "looking at the installed versions", _tested_versions
        yield "importing TFX, 10 to 20 seconds", _components
        yield "asking TensorFlow for GPUs", _gpu
    yield "looking at memory and disk", _machine


def _client() -> Iterator[Finding]:
    """The base install: command, client, `predict` by URL."""
    yield Finding("flexunet", f"{installed_version('flexunet')} on Python {platform.python_version()}", True)
    missing = [name for name in requirements() if installed_version(name) is None]
    found = f"missing: {', '.join(missing)}" if missing else "all there"
    yield Finding("client", found, not missing, pip_install() if missing else "")


def _extras() -> Iterator[Finding]:
    """What a wheel can have besides; nothing of it is bad when it is not there."""
    missing = [name for name in requirements("data") if installed_version(name) is None]
    what = "ingest, and models in folders"
    if missing:
        yield Finding(what, f"not installed: {', '.join(missing)}", True, f"to have them: {pip_install('data')}")
    else:
        yield Finding(what, "all there", True)
    yield Finding("training", "not in the wheel", True, "to have it: a checkout of the project, or its image")


def _tested_versions() -> Iterator[Finding]:
    """The set that was run together, as pinned; TFX's own pins refuse glibc < 2.39, see docs/decisions/0001."""
    for name, requirement in (requirements("data") | requirements("pipeline")).items():
        found, (_, _, pinned) = installed_version(name), requirement.partition("==")
        if found is None:
            yield Finding(name, "not installed", False, _setup())
        elif pinned:
            yield Finding(name, found, found == pinned, "" if found == pinned else f"tested is {pinned}; {_setup()}")


def _components() -> Iterator[Finding]:
    """TFX turns import errors of its own components into None."""
    try:
        from tfx.v1 import components
    except ImportError as error:
        yield Finding("tfx components", f"cannot be imported: {error}", False, _setup())
        return
    missing = [name for name in _COMPONENTS if getattr(components, name, None) is None]
    repair = "one of their imports fails; `make clean setup` installs all anew" if missing else ""
    yield Finding("tfx components", f"missing: {', '.join(missing)}" if missing else "all there", not missing, repair)


def _setup() -> str:
    root = checkout()
    assert root is not None, "training is looked at in a checkout only"
    return make_setup(root)


def _machine() -> Iterator[Finding]:
    yield from (_memory(), _disk())


def _memory() -> Finding:
    """Training needs it; a client does with what there is."""
    usable = usable_memory()
    good = usable >= _LEAST_MEMORY or checkout() is None
    return Finding("memory", f"{usable / _GIB:.1f} GiB", good, "" if good else "training needs 3 GiB")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    good = free >= _LEAST_DISK or checkout() is None
    return Finding("free disk here", f"{free / _GIB:.1f} GiB", good, "" if good else "training should have 5 GiB")


def _gpu() -> Iterator[Finding]:
    try:
        import tensorflow as tf
    except ImportError:
        return
    gpus = tf.config.list_physical_devices("GPU")
    hint = "" if gpus else f"none is needed; for one: the NVIDIA driver, and `{GPU_SETUP}`"
    yield Finding("GPU", f"{len(gpus)} found" if gpus else "none", True, hint)
