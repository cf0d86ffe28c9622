"""What lies in the folder of a report: written by the report node, read by the page, the runner and the commands."""

import json
from pathlib import Path
from typing import Any, Final

from flexunet.core.files import replace_file

PAGE: Final = "index.html"
# The contract with whoever reads scores; details.json holds what it has no place for.
METRICS_FILE: Final = "metrics.json"
DETAILS_FILE: Final = "details.json"
# What the serving validator found, and whether this very model was rolled back since.
SERVING_FILE: Final = "serving.json"
# Images, pixels and brightness of each split, and drift.
DATA_FILE: Final = "data.json"
# Layers and what they cost; beside it the diagram.
MODEL_FILE: Final = "model.json"
DIAGRAM_FILE: Final = "model.svg"
# Data, code, configuration and baseline that made the model.
LINEAGE_FILE: Final = "lineage.json"
TRAINING_FOLDER: Final = "training"
GALLERY_FOLDER: Final = "gallery"
GALLERY_FILE: Final = "gallery.json"

# Custom properties of the report in ML Metadata, where they outlive its folder: value, interval, test images.
HEADLINE_PROPERTIES: Final = ("foreground_dice", "foreground_dice_lower", "foreground_dice_upper", "examples")


def write_json(path: Path, content: Any) -> None:
    """Writes by one rename; JSON has no NaN, and one raises ValueError."""
    replace(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def replace(path: Path, text: str) -> None:
    """Writes by one rename; what is no Unicode, as file names may be, is escaped."""
    replace_file(path, text.encode(errors="backslashreplace"))
