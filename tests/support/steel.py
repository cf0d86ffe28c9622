"""The classes of nearly all tests: those of the presets, in their order."""

from flexunet.core.config.data import Color

NAMES = ["background", "inclusion", "patches", "scratches"]
COLORS: list[Color] = [(0, 0, 0), (0, 0, 255), (0, 255, 0), (255, 0, 0)]
# As a configuration has them.
CLASSES = [{"name": name, "color": [*color]} for name, color in zip(NAMES, COLORS, strict=True)]
