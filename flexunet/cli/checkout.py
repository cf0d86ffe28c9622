"""The part of the project that no wheel holds."""

import importlib
import sys
from pathlib import Path
from typing import Any

from flexunet.core.errors import UserError


def kubeflow_module(name: str) -> Any:
    """`kubeflow/NAME.py` of this checkout: PyPI has packages named `kubeflow` of its own, so ours is in no wheel.

    Raises:
      UserError: this is no checkout.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / "kubeflow" / f"{name}.py").is_file():
        raise UserError("kubeflow/ is not in the wheel, expected a checkout of the project: run flexunet from there")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return importlib.import_module(f"kubeflow.{name}")
