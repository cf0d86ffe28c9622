"""The page of metrics: every key of a report's documents, from flexunet/core/results."""

import ast
import inspect
import itertools
import sys
import types
from collections.abc import Iterator
from typing import Final, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from flexunet.core.results.lineage import ReportLineage
from flexunet.core.results.metrics import Details, Metrics
from flexunet.core.results.serving import Serving

DOCUMENTS: Final = ((Metrics, "metrics.json"), (Details, "details.json"), (Serving, "serving.json"))
OTHERS: Final = ((ReportLineage, "lineage.json"),)
KINDS: Final = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "`null`"}
INTRODUCTION: Final = """\
The documents of `report/`, of a run; `flexunet evaluate --out DIR` writes the first two. Scores are measured on `test`,
at each image's own size, from the exported graph, on labelled pixels only. What is undefined, such as the Dice of a
class that neither truth nor prediction holds, is `null`.

For class `c`, over all images of the split: `TP` pixels of `c` predicted as `c`, `FN` pixels of `c` predicted
otherwise, `FP` others predicted as `c`. `p(x)` is the probability that the model gives to the *true* class of pixel
`x`, `N` the number of labelled pixels. Classes 1 to C-1 are the defects, 0 is the background.

Counts to scores is one module, `flexunet/core/scores.py`; the Keras metric, the TFMA metric and the report all call it.
"""


def page() -> Iterator[str]:
    """The parts of the page."""
    yield INTRODUCTION
    shown: set[str] = set()
    for document, name in (*DOCUMENTS, *OTHERS):
        yield f"## `{name}`\n"
        yield from _table(document)
        for part in _parts(document):
            if part.__name__ not in shown:
                shown.add(part.__name__)
                yield f"### {part.__name__}\n\n{inspect.getdoc(part)}\n"
                yield from _table(part)


def _table(document: type) -> Iterator[str]:
    words = _words(document)
    yield "| key | type | what |\n| --- | --- | --- |"
    for key, hint in get_type_hints(document).items():
        yield f"| `{key}` | {_type_words(hint)} | {words.get(key, '')} |"
    yield ""


def _parts(document: type) -> Iterator[type]:
    """The documents inside a document, each before what it holds."""
    for hint in get_type_hints(document).values():
        for part in _typed(hint):
            yield part
            yield from _parts(part)


def _typed(hint: object) -> list[type]:
    if is_typeddict(hint):
        assert isinstance(hint, type)
        return [hint]
    return [part for inner in get_args(hint) for part in _typed(inner)]


def _type_words(hint: object) -> str:
    origin, inside = get_origin(hint), get_args(hint)
    if is_typeddict(hint):
        name = getattr(hint, "__name__", "")
        return f"[{name}](#{name.lower()})"
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in inside)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_type_words, inside))
    if origin is NotRequired:
        return _type_words(inside[0])
    if origin is list:
        return f"list of ({_type_words(inside[0])})"
    if origin is dict:
        return f"by name ({_type_words(inside[1])})" if _type_words(inside[1]) else "table"
    return KINDS.get(hint, "") if isinstance(hint, type) else ""


def _words(document: type) -> dict[str, str]:
    """What stands below each field of a class, and of those that it extends."""
    module = sys.modules[document.__module__]
    classes = [node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.ClassDef)]
    [found] = [node for node in classes if node.name == document.__name__]
    words: dict[str, str] = {}
    for base in found.bases:
        if isinstance(base, ast.Name) and is_typeddict(extended := getattr(module, base.id)):
            words |= _words(extended)
    for field, below in itertools.pairwise(found.body):
        is_words = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_words:
            words[field.target.id] = str(ast.literal_eval(below.value))
    return words
