"""What is installed, and the command that installs what is missing, from the requirements that the package declares."""

import re
import shlex
from pathlib import Path
from typing import Final

# Above it lie, in a checkout and in the image, `pipeline`, `kubeflow` and the other packages that no wheel holds.
LIBRARY: Final = Path(__file__).resolve().parents[1]
# Where a module and the distribution that holds it have different names.
_DISTRIBUTIONS: Final = {
    "faiss": "faiss-cpu",
    "google": "protobuf",
    "grpc": "grpcio",
    "PIL": "pillow",
    "yaml": "pyyaml",
}


def checkout() -> Path | None:
    """The folder of the project, if the library lies in a checkout or in the image; None for a wheel."""
    root = LIBRARY.parent
    return root if (root / "pyproject.toml").is_file() and (root / "pipeline" / "__init__.py").is_file() else None


def requirements(extra: str = "") -> dict[str, str]:
    """What the package declares, such as `tensorflow==2.21.0`, by the distribution's name; "" is the base."""
    import importlib.metadata  # fifty modules, for --help too

    found: dict[str, str] = {}
    for line in importlib.metadata.requires("flexunet") or []:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        of = re.search(r"""extra == ["'](\w+)["']""", marker)
        if (of[1] if of else "") == extra and name != "flexunet":
            found[name] = requirement
    return found


def installed_version(distribution: str) -> str | None:
    """None where it is not installed."""
    import importlib.metadata

    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def how_to_install(module: str) -> str:
    """The words, with a command, that bring a module here which could not be imported."""
    root = checkout()
    if root:
        return make_setup(root)
    distribution = _DISTRIBUTIONS.get(module, module.replace("_", "-"))
    if distribution in requirements("data"):
        return f"the extra `data` has it: {pip_install('data')}"
    if distribution in requirements("signing"):
        return f"the extra `signing` has it: {pip_install('signing')}"
    if distribution in requirements():
        return f"the base install has it: {pip_install()}"
    return "only a checkout of the project, or its image, has it"


def pip_install(extra: str = "") -> str:
    """A command that pip resolves, whether or not an index knows this package: its requirements by name."""
    return shlex.join(["pip", "install", *requirements(extra).values()])


def make_setup(root: Path) -> str:
    """The commands that bring a checkout's environment to what the lock says, with uv and without."""
    return f"run `make setup` in {root}, or `pip install --no-deps -r requirements.txt` where make cannot be used"
