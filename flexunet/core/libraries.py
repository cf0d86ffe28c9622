"""The libraries whose upgrade can change what a node gives; others only carry data around."""

from typing import Final

LIBRARIES: Final = ("tensorflow", "keras", "tensorflow-transform", "tensorflow-model-analysis")
