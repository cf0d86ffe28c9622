"""`training.json` of an export: what made its weights. Apart from the scores: Trainer is keyed by what it imports."""

from typing import TypedDict


class KerasOrigin(TypedDict):
    """The Keras file that `flexunet import model` took weights from."""

    file: str
    """its name"""
    sha256: str
    """over its bytes"""
    keras: str
    """the version of Keras that wrote it; empty if the file does not tell"""


class TrainingFacts(TypedDict, total=False):
    """`assets.extra/training.json` of an export; empty for a model trained elsewhere."""

    parameters: int
    epochs: int
    train_seconds: float
    code: str
    """fingerprint of the code of the training"""
    encoder_weights: str
    """sha256 of the file that the encoder began with, if there was one"""
    weights: KerasOrigin
    """of a model that was imported instead"""
    members: int
    """of an ensemble: how many models' mean it answers; epochs and seconds are those of all"""
