"""What a model folder says about itself: classes, colours and sizes, for those who show its answers."""

import json
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline import features
from pipeline.config import ImageConfig, RecordsConfig, SegmentationClass
from pipeline.errors import UserError

# A newer version's export has settings that this one does not know, and they do not matter here.
_LENIENT: Final = ConfigDict(frozen=True, extra="ignore")


class ServedRecords(RecordsConfig):
    """The colour of unlabelled pixels, and the records' keys."""

    model_config = _LENIENT


class ServedImage(ImageConfig):
    """The size that the model sees, and how an image is brought to it."""

    model_config = _LENIENT


class ServedConfig(BaseModel):
    """The part of a configuration that callers of a model need."""

    model_config = _LENIENT

    classes: tuple[SegmentationClass, ...]
    records: ServedRecords = ServedRecords()
    image: ServedImage = ServedImage()


def model_directory(directory: Path) -> Path:
    """The SavedModel itself: `directory`, or its newest numeric version.

    Raises:
      UserError: neither holds a SavedModel.
    """
    if (directory / "saved_model.pb").is_file():
        return directory
    numbers = [int(p.name) for p in directory.glob("*/") if p.name.isdigit()] if directory.is_dir() else []
    if not numbers:
        raise UserError(f"{directory}: no model here, expected a SavedModel, such as DIR/serving_model/1 of a run")
    return directory / str(max(numbers))


def exported_config(directory: Path) -> ServedConfig:
    """Classes, colours and sizes that the model in `directory` was trained with.

    Raises:
      UserError: not a model of this project.
    """
    path = _config_file(directory)
    try:
        return ServedConfig.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise UserError(
            f"{path}: not of this version ({error.error_count()} mistakes): export the model anew"
        ) from None


def exported_json(directory: Path) -> dict[str, Any]:
    """All that was written of the configuration, by the project's version that exported the model.

    Raises:
      UserError: not a model of this project.
    """
    path = _config_file(directory)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}): export the model anew") from None


def _config_file(directory: Path) -> Path:
    path = directory / features.ASSETS_EXTRA / features.EXPORTED_CONFIG
    if not path.is_file():
        raise UserError(f"{path}: missing, expected a model exported by this project")
    return path
