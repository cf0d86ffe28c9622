"""Configurations of which only the layers matter."""

from flexunet.core.config.data import ImageConfig, SegmentationClass
from flexunet.core.config.train import ModelConfig, TrainConfig, TrainerConfig


def config_of(layers: ModelConfig, size: int = 32, classes: int = 4, seed: int = 0) -> TrainerConfig:
    """For square images of `size` pixels and so many classes, of grey levels as colours."""
    return TrainerConfig(
        classes=tuple(SegmentationClass(name=f"class {index}", color=(index,) * 3) for index in range(classes)),
        image=ImageConfig(height=size, width=size),
        model=layers,
        train=TrainConfig(seed=seed),
    )
