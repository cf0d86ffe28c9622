"""`model.json` and `gallery.json` of a report: layers and what they cost, and the images worth looking at."""

from typing import NotRequired, TypedDict


class Layer(TypedDict):
    """A layer of the network."""

    name: str
    kind: str
    """Keras' name of its class"""
    output_shape: list[int]
    """height, width, channels"""
    parameters: int
    multiply_accumulates: int
    """for one image; only convolutions are counted, the rest is a hundredth of them"""


class Model(TypedDict):
    """`model.json`."""

    parameters: int
    multiply_accumulates: int
    """for one image"""
    activation_bytes: int
    """of a training step"""
    layers: list[Layer]
    members: NotRequired[int]
    """of an ensemble: how many networks of these layers, whose sums the first two are; each was trained alone"""


class ErrorCounts(TypedDict):
    """Counts of one class in one image: defects of the truth, and regions that were predicted where no defect is."""

    defects: int
    right: int
    missed: int
    wrong: int
    """predicted as another class"""
    alarm: int
    """predicted where no defect is"""


class GalleryImage(TypedDict):
    """An image of `gallery.json`."""

    id: str
    which: list[str]
    """of worst, median, best; empty for one that is shown since there is room"""
    dice: float
    height: int
    width: int
    classes: dict[str, ErrorCounts]
    """those with anything to count"""
    pixels: dict[str, int]
    """by kind of mistake"""
    side: int
    """the longer side of its pictures is at most so many pixels"""
    files: dict[str, str]
    """names of its pictures, by part: image, truth, predicted, errors, and the last three's outlines, `..._lines`"""
