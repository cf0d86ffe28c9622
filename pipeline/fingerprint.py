"""A hash of the code that a node runs: its entry modules, what of ours they import, and the libraries' versions.

TFX keys its cache on execution properties, and code that is imported by path is not among them.
"""

import functools
import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grimp

from flexunet.core.libraries import LIBRARIES

PACKAGES = ("flexunet", "transform_module", "trainer_module", "components", "pipeline")
# What a package of templates holds is code as well.
TEMPLATES = (".j2", ".css", ".js")


def code_fingerprint(modules: Sequence[str]) -> str:
    """sha256 over the source of `modules` and of what they import, in our packages; a missing module raises."""
    graph = _import_graph()
    needed = set(modules).union(*(graph.find_upstream_modules(module) for module in modules))
    # Importing a.b runs a/__init__.py.
    needed |= {module.rpartition(".")[0] for module in needed if "." in module}
    versions = [f"{library} {importlib.metadata.version(library)}" for library in LIBRARIES]
    digest = hashlib.sha256("\n".join(versions).encode())
    for module in sorted(needed):
        for path in _sources(module):
            digest.update(f"{module}/{path.name}".encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def _import_graph() -> Any:
    return grimp.build_graph(*PACKAGES, cache_dir=None)


def _sources(module: str) -> list[Path]:
    """The module's file; of a package also the templates beside it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"{module} has no source file")
    source = Path(spec.origin)
    beside = sorted(source.parent.iterdir()) if source.name == "__init__.py" else []
    return [source, *(path for path in beside if path.suffix in TEMPLATES)]
