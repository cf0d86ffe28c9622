"""The whole configuration: every section, and what sections must agree on."""

from collections.abc import Iterator
from typing import Self

from pydantic import Field, field_validator, model_validator

from flexunet.core.config.beam import BeamConfig
from flexunet.core.config.data import SegmentationClass
from flexunet.core.config.dataset import DatasetConfig, MasksConfig
from flexunet.core.config.gate import GateConfig
from flexunet.core.config.kubeflow import KubeflowConfig
from flexunet.core.config.operating import parse_target
from flexunet.core.config.serving import ServingConfig
from flexunet.core.config.train import TrainerConfig
from flexunet.core.features import NO_DEFECT, defects_of, defects_value


class Config(TrainerConfig):
    """Everything. `[[classes]]` is required; every other section has defaults."""

    # Frozen, so that nobody can put the shorter section in its place; basedpyright does not know.
    records: MasksConfig = Field(default_factory=MasksConfig)  # pyright: ignore[reportIncompatibleVariableOverride]
    dataset: DatasetConfig = Field(default_factory=DatasetConfig)
    # More than Trainer reads of it.
    serving: ServingConfig = Field(default_factory=ServingConfig)  # pyright: ignore[reportIncompatibleVariableOverride]
    gate: GateConfig = Field(default_factory=GateConfig)
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
            self._check_image_size,
            self._check_head,
            self._check_symmetries,
            self._check_dropout,
            self._check_warmup,
            self._check_weights,
            self._check_ignore_color,
            self._check_grey_threshold,
            self._check_gate_classes,
            self._check_names,
            self._check_target,
        )
        problems = [problem for check in checks for problem in check()]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _check_image_size(self) -> Iterator[str]:
        divisor = 2 ** (self.model.num_layers - 1)
        for key in ("height", "width"):
            size = getattr(self.image, key)
            if size % divisor:
                yield (
                    f"image.{key} is {size}, expected a multiple of {divisor} (2**(model.num_layers - 1)), such as "
                    f"{max(1, round(size / divisor)) * divisor}"
                )

    def _check_head(self) -> Iterator[str]:
        if self.model.head == "sigmoid" and len(self.classes) != 2:
            yield (
                f"model.head is 'sigmoid' with {len(self.classes)} classes, expected exactly 2; use head = 'softmax'"
            )

    def _check_symmetries(self) -> Iterator[str]:
        if self.serving.symmetries == 8 and self.image.height != self.image.width:
            yield (
                f"serving.symmetries is 8 with images of {self.image.height}x{self.image.width}, expected a square to "
                "turn; use 4"
            )

    def _check_dropout(self) -> Iterator[str]:
        deepest = self.model.dropout * (self.model.num_layers - 1)
        if deepest >= 1:
            limit = 1 / (self.model.num_layers - 1)
            yield (
                f"model.dropout is {self.model.dropout:g}, which makes {deepest:g} at the deepest of "
                f"{self.model.num_layers} levels, expected less than {limit:.3g}"
            )

    def _check_warmup(self) -> Iterator[str]:
        warmup, epochs = self.train.warmup_epochs, self.train.epochs
        if warmup >= epochs:
            yield f"train.warmup_epochs is {warmup:g}, expected less than train.epochs, {epochs}"

    def _check_weights(self) -> Iterator[str]:
        names = [c.name for c in self.classes]
        for name in self.train.class_weights:
            if name not in names:
                yield f"train.class_weights names {name!r}, expected a class: {', '.join(names)}"
        if self.train.weight_decay and self.train.optimizer != "adamw":
            yield (
                f"train.weight_decay is {self.train.weight_decay:g} with optimizer = {self.train.optimizer!r}, "
                "expected 0; use optimizer = 'adamw'"
            )

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
