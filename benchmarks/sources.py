"""Folders of images and masks that recipes are compared on: generated kinds, and a user's own."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexunet.core.config.load import load_config

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def steel_classes() -> list[dict[str, Any]]:
    """`[[classes]]` of the preset neu-seg, the first four ids of generated surfaces."""
    return load_config("neu-seg").model_dump(mode="json")["classes"]


def kinds_of(only: Sequence[str] | None, generated: Iterable[str], images: Path | None) -> Sequence[str]:
    """Those that `--only` names, else all: the generated ones and the folder of `--images`.

    Raises:
      SystemExit: a kind is named that there is not.
    """
    known = [*generated, *([images.name] if images else [])]
    kinds = only or known
    if unknown := [kind for kind in kinds if kind not in known]:
        sys.exit(f"error: --only {unknown[0]!r}: expected some of {', '.join(map(repr, known))}")
    return kinds


def write_pairs(pairs: Iterable[Pair], count: int, folder: Path) -> None:
    """Images uint8 `[h, w, 3]` and, in neu-seg's colours, class ids uint8 `[h, w]`; nothing if `count` are there."""
    if (folder / "masks" / f"{count - 1:03d}.png").exists():
        return
    palette = np.array([one["color"] for one in steel_classes()], np.uint8)
    for role in ("images", "masks"):
        (folder / role).mkdir(parents=True, exist_ok=True)
    for index, (image, class_ids) in enumerate(pairs):
        Image.fromarray(image).save(folder / "images" / f"{index:03d}.png")
        Image.fromarray(palette[class_ids]).save(folder / "masks" / f"{index:03d}.png")
