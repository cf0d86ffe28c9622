"""Image files made of pixels."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def encoded(pixels: NDArray[Any], image_format: str = "PNG", mode: str | None = None, **options: Any) -> bytes:
    """An image file of grey `[height, width]` or RGB `[height, width, 3]` pixels; `options` are Pillow's."""
    buffer = io.BytesIO()
    image = Image.fromarray(np.asarray(pixels))
    (image.convert(mode) if mode else image).save(buffer, image_format, **options)
    return buffer.getvalue()
