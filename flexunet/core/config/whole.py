"""The whole configuration: every section, and what sections must agree on."""

import json
from collections.abc import Iterator
from typing import Self

from pydantic import Field, ValidationError, field_validator, model_validator

from flexunet.core.config.beam import BeamConfig
from flexunet.core.config.card import CardConfig
from flexunet.core.config.data import SegmentationClass
from flexunet.core.config.dataset import DatasetConfig, MasksConfig
from flexunet.core.config.gate import GateConfig
from flexunet.core.config.kubeflow import KubeflowConfig
from flexunet.core.config.operating import parse_target
from flexunet.core.config.section import Scalar, Section
from flexunet.core.config.serving import ServingConfig
from flexunet.core.config.train import NO_WEIGHTS, AugmentConfig, ModelConfig, TrainConfig
from flexunet.core.config.tune import BUDGETS, Range, TunerConfig, kind_of_numbers
from flexunet.core.features import NO_DEFECT, defects_of, defects_value


class Config(TunerConfig):
    """Everything. `[[classes]]` is required; every other section has defaults."""

    # Frozen, so that nobody can put the shorter section in its place; basedpyright does not know.
    records: MasksConfig = Field(default_factory=MasksConfig)  # pyright: ignore[reportIncompatibleVariableOverride]
    dataset: DatasetConfig = Field(default_factory=DatasetConfig)  # pyright: ignore[reportIncompatibleVariableOverride]
    # More than Trainer reads of it.
    serving: ServingConfig = Field(default_factory=ServingConfig)  # pyright: ignore[reportIncompatibleVariableOverride]
    gate: GateConfig = Field(default_factory=GateConfig)
    card: CardConfig = Field(default_factory=CardConfig)
    beam: BeamConfig = Field(default_factory=BeamConfig)
    kubeflow: KubeflowConfig = Field(default_factory=KubeflowConfig)

    @field_validator("classes")
    @classmethod
    def _classes_are_distinct(cls, classes: tuple[SegmentationClass, ...]) -> tuple[SegmentationClass, ...]:
        for what, values in (("name", [c.name for c in classes]), ("color", [c.color for c in classes])):
            repeated = [value for index, value in enumerate(values) if value in values[:index]]
            if repeated:
                raise ValueError(f"the {what} {repeated[0]!r} is used twice, expected a different one for each class")
        return classes

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        checks = (
            self._check_ignore_color,
            self._check_grey_threshold,
            self._check_gate_classes,
            self._check_names,
            self._check_target,
        )
        problems = [*self.contradictions(), *(problem for check in checks for problem in check())]
        # Each value is tried in a whole configuration, which must be right by itself.
        problems = problems or list(self._check_space())
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _check_ignore_color(self) -> Iterator[str]:
        for segmentation_class in self.classes:
            if segmentation_class.color == self.records.ignore_color:
                yield (
                    f"records.ignore_color {list(segmentation_class.color)} is also the colour of class "
                    f"{segmentation_class.name!r}, expected a colour of its own"
                )

    def _check_grey_threshold(self) -> Iterator[str]:
        records = self.records
        if records.grey_threshold is None:
            return
        if len(self.classes) != 2:
            yield f"records.grey_threshold with {len(self.classes)} classes, expected exactly 2: it tells no more apart"
        others = {"ignore_color": None, "mask_values": "auto", "mask_colors": "exact"}
        for key, default in others.items():
            if getattr(records, key) != default:
                yield f"records.grey_threshold with records.{key}, expected one of them: a level decides all by itself"

    def _check_target(self) -> Iterator[str]:
        target = parse_target(self.operating_point.target)
        if target and target.unit == "square metre" and self.image.pixel_size is None:
            yield "operating_point.target is per square metre, expected image.pixel_size, the side of a pixel in mm"

    def _check_gate_classes(self) -> Iterator[str]:
        choices = [c.name for c in self.classes[1:]]
        for key in ("min_class_dice", "allow_unmeasured"):
            for name in getattr(self.gate, key):
                if name not in choices:
                    yield (f"gate.{key} names {name!r}, expected a defect class: {', '.join(choices)}")
        for name in self.gate.min_slice_dice:
            column, _, value = name.partition("=")
            named = defects_of(value)
            ordered = defects_value([choice for choice in choices if choice in named])
            if column == "defects" and (value == NO_DEFECT or value != ordered):
                all_of_them = defects_value(choices)
                yield f"gate.min_slice_dice names {name!r}, expected defect classes in this order: {all_of_them}"

    def _check_names(self) -> Iterator[str]:
        if NO_DEFECT in [c.name for c in self.classes[1:]]:
            yield f"a defect is called {NO_DEFECT!r}, as the slice of images without one is, expected another name"

    def _check_space(self) -> Iterator[str]:
        """Every value that a search may try, alone among the others as they are."""
        sections: dict[str, type[Section]] = {"model": ModelConfig, "augment": AugmentConfig, "train": TrainConfig}
        for key, candidates in self.tune.space.by_key().items():
            section, _, name = key.partition(".")
            known = sections[section].model_fields
            if name not in known:
                yield f"tune.space.{section} names {name!r}, expected one of {', '.join(known)}"
            elif key == "train.encoder_weights":
                yield f"tune.space names {key}, expected one file for all trials: a search is known by its content"
            elif key in BUDGETS:
                yield f"tune.space names {key}, expected none of {', '.join(BUDGETS)}: set tune.trial_seconds"
            elif section == "model" and self.train.warm_start and name not in NO_WEIGHTS:
                yield (
                    f"tune.space names {key} with train.warm_start, expected no layers that the pushed model has not: "
                    "set train.warm_start = false"
                )
            elif isinstance(candidates, Range) and kind_of_numbers(sections[section], name) is None:
                yield f"tune.space.{key} is a range of numbers, which the key does not take: list the values to try"
            else:
                ends = (candidates.low, candidates.high) if isinstance(candidates, Range) else candidates
                yield from (f"tune.space.{key}: {words}" for value in ends for words in self._refused(key, value))

    def _refused(self, key: str, value: Scalar) -> Iterator[str]:
        """Why a value cannot stand at a key."""
        section, _, name = key.partition(".")
        values = self.model_dump(mode="json", exclude={"tune"})
        values[section][name] = value
        try:
            type(self).model_validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            [first, *_] = error.errors()[0]["msg"].splitlines()
            yield f"{value!r}: {first.removeprefix('Value error, ')}"
