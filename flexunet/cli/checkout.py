"""The part of the project that no wheel holds: training, and all that needs TFX, runs from a checkout or the image."""

import sys
from pathlib import Path
from typing import Final

# Above it lie, in a checkout, `pipeline`, `kubeflow` and the other packages that a wheel must not bring along: their
# names are common ones, and a user's own project has the right to them.
_LIBRARY: Final = Path(__file__).resolve().parents[1]
_ROOT: Final = _LIBRARY.parent


def missing_package(module: str) -> str:
    """The top-level package of a module, if it is one of the project's and not beside the library; else "".

    What is beside the library is found by imports from then on, whatever else has its name.
    """
    package = module.partition(".")[0]
    if package == _LIBRARY.name:
        return ""
    if not (_ROOT / package / "__init__.py").is_file() or not (_ROOT / "pyproject.toml").is_file():
        return package
    if str(_ROOT) not in sys.path:
        sys.path.insert(0, str(_ROOT))
    return ""
