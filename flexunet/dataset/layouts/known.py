"""The names of the layouts, for the command line: importing the readers takes too long for --help."""

from typing import Final

LAYOUTS: Final = (
    "folders",
    "beside",
    "voc",
    "coco",
    "labelme",
    "yolo",
    "severstal",
    "mvtec",
    "class-masks",
    "npz",
)
