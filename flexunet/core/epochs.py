"""`history.csv`: what a training measured after each epoch."""

import csv
from pathlib import Path
from typing import TypeAlias

Epochs: TypeAlias = list[dict[str, float]]


def read_history(path: Path) -> Epochs:
    """Rows of `history.csv`; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def best_epoch(history: Epochs, monitor: str) -> int | None:
    """The epoch whose weights were kept; the first of several that are as good, as early stopping has it."""
    measured = [row for row in history if f"val_{monitor}" in row and row[f"val_{monitor}"] == row[f"val_{monitor}"]]
    if not measured:
        return None
    sign = -1 if monitor == "loss" else 1
    return int(max(measured, key=lambda row: sign * row[f"val_{monitor}"])["epoch"])
