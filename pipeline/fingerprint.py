"""A hash of the code that a node runs: its entry modules, what of ours they import, and the libraries' versions.

TFX keys its cache on execution properties, and code that is imported by path is not among them. What is hashed is what
code means: a comment, a docstring, the description of a setting or a line break changes nothing.
"""

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import grimp

from flexunet.core.libraries import LIBRARIES

PACKAGES = ("flexunet", "transform_module", "trainer_module", "components", "pipeline")
# What a package of templates holds is code as well.
TEMPLATES = (".j2", ".css", ".js")


def code_fingerprint(modules: Sequence[str]) -> str:
    """sha256 over what `modules` and the modules they import mean, in our packages; a missing module raises."""
    versions = [f"{library} {importlib.metadata.version(library)}" for library in LIBRARIES]
    digest = hashlib.sha256("\n".join(versions).encode())
    for module in sorted(needed_modules(modules)):
        digest.update(f"{module} {_meaning(module)}\n".encode())
    return digest.hexdigest()


def needed_modules(modules: Sequence[str]) -> set[str]:
    """`modules`, all of ours that they import, and the packages above those with what *they* import."""
    graph = _import_graph()
    needed: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in needed:
            needed.add(module)
            waiting += graph.find_upstream_modules(module)
            # Importing a.b.c runs a/__init__.py and a/b/__init__.py.
            waiting += [package] if (package := module.rpartition(".")[0]) else []
    return needed


@functools.cache
def _import_graph() -> grimp.ImportGraph:
    # What only a type checker imports does nothing when a node runs.
    return grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)


@functools.cache
def _meaning(module: str) -> str:
    """sha256 of the module's syntax tree; of a package also of the templates beside it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"{module} has no source file")
    source = Path(spec.origin)
    tree = _WithoutWords().visit(ast.parse(source.read_bytes(), source))
    digest = hashlib.sha256(ast.dump(tree).encode())
    beside = sorted(source.parent.iterdir()) if source.name == "__init__.py" else []
    for path in beside:
        if path.suffix in TEMPLATES:
            digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


class _WithoutWords(ast.NodeTransformer):
    """Leaves out docstrings, those of fields too, and the descriptions of settings, which only documentation shows."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [statement for statement in node.body if not _is_words(statement)]
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id == "Field":
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "description"]
        return self.generic_visit(node)


def _is_words(statement: ast.stmt) -> bool:
    """A string that nothing is done with."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
