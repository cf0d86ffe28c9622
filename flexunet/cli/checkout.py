"""The part of the project that no wheel holds: training, and all that needs TFX, runs from a checkout or the image."""

import sys

from flexunet.core.install import LIBRARY, checkout


def missing_package(module: str) -> str:
    """The top-level package of a module, if it is one of the project's and not beside the library; else "".

    A wheel must not bring these packages along: their names are common ones, and a user's own project has the right to
    them. What is beside the library is found by imports from then on, whatever else has its name.
    """
    package = module.partition(".")[0]
    if package == LIBRARY.name:
        return ""
    root = checkout()
    if root is None or not (root / package / "__init__.py").is_file():
        return package
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return ""
