"""Paths of TensorFlow Serving's REST interface."""

import re
from typing import Final

_PLACE: Final = r"/v1/models/(?P<name>[^/:]+)(/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
PREDICT_PATH: Final = re.compile(_PLACE + ":predict", re.IGNORECASE)
STATUS_PATH: Final = re.compile(_PLACE + "(?P<metadata>/metadata)?", re.IGNORECASE)
