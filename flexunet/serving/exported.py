"""What a model folder says about itself: classes, colours and sizes, for those who show its answers."""

from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, cast

from pydantic import BaseModel, ConfigDict

from flexunet.core import features
from flexunet.core.config.data import ImageConfig, RecordsConfig, SchemaConfig, SegmentationClass
from flexunet.core.config.section import part_of
from flexunet.core.errors import UserError, last_line
from flexunet.core.files import read_json

if TYPE_CHECKING:
    from flexunet.core.results.operating import OperatingPoint
    from flexunet.core.results.training import TrainingFacts

# A newer version's export has settings that this one does not know, and they do not matter here.
LENIENT: Final = ConfigDict(frozen=True, extra="ignore")

Part = TypeVar("Part", bound=BaseModel)


class ServedRecords(RecordsConfig):
    """The colour of unlabelled pixels, and the records' keys."""

    model_config = LENIENT


class ServedImage(ImageConfig):
    """The size that the model sees, and how an image is brought to it."""

    model_config = LENIENT


class ServedConfig(BaseModel):
    """The part of a configuration that callers of a model need."""

    model_config = LENIENT

    classes: tuple[SegmentationClass, ...]
    records: ServedRecords = ServedRecords()
    image: ServedImage = ServedImage()


def exported_config(directory: Path) -> ServedConfig:
    """Classes, colours and sizes that the model in `directory` was trained with.

    Raises:
      UserError: not a model of this project.
    """
    return exported_part(directory, ServedConfig)


def exported_training(directory: Path) -> "TrainingFacts":
    """What made the weights of the model in `directory`; nothing for one trained elsewhere.

    Raises:
      UserError: it is damaged.
    """
    path = directory / features.ASSETS_EXTRA / features.EXPORTED_TRAINING
    facts = read_json(path) or {}
    if not isinstance(facts, dict):
        raise UserError(f"{path}: not what this project wrote, expected an object: copy the model again")
    return cast("TrainingFacts", facts)


def check_exported(directory: Path, config: SchemaConfig) -> None:
    """Raises UserError where the model in `directory` tells other classes than `config`, or reads other records."""
    ours = part_of(config, SchemaConfig).model_dump()
    theirs = exported_config(directory).model_dump(include={*ours})
    for key, value in ours.items():
        if theirs[key] != value:
            words = f"its {key} are not those of the config, expected the same: name its own config"
            raise UserError(f"{directory}: {words}")


def exported_thresholds(directory: Path) -> list[float] | None:
    """Of the defect classes, in their order; None for a model without an operating point.

    Raises:
      UserError: as `exported_config`.
    """
    point = exported_operating_point(directory)
    return None if point is None else [point["thresholds"][c.name] for c in exported_config(directory).classes[1:]]


def exported_operating_point(directory: Path) -> "OperatingPoint | None":
    """What Trainer chose; None for a model without an operating point."""
    point: OperatingPoint | None = read_json(directory / features.ASSETS_EXTRA / features.EXPORTED_OPERATING_POINT)
    return point


def exported_part(directory: Path, part: type[Part]) -> Part:
    """The sections of `part` from an export's configuration; errors as in `exported_config`."""
    path = directory / features.ASSETS_EXTRA / features.EXPORTED_CONFIG
    if not path.is_file():
        raise UserError(f"{path}: missing, expected a model exported by this project")
    try:
        return part.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not of this version ({last_line(error)}): export the model anew") from None
