"""What is kept of an image to know it again: a small grey picture of its texture, and a digest of its pixels.

Apart from `flexunet.dataset.groups`, which compares them: the processes that read images need not import faiss and
SciPy, for which each of them took a second.
"""

import hashlib
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 50
BLUR_SIGMA = 6
# In grey levels. JPEG leaves 0.07 on a blank surface with a noise of one level; the weakest NEU-Seg image has 2.0.
FLAT_RMS = 0.05


def thumbnail(image: Image.Image) -> NDArray[np.float32]:
    """What is compared of an image: its 50x50 grey thumbnail minus the Gaussian blur, zero-mean, of unit norm.

    Computed in floats, since rounding between the two passes of a resize breaks the symmetry: on NEU-Seg the least
    correlated pair of a group rises from 0.956 to 0.969. Beyond the border the image goes on by point reflection, so
    that even gradients of light leave no frame: unrelated blank surfaces with a noise of two grey levels under one
    vignette of 60 correlate by 0.75 at most, with the border repeated by 0.98.

    Args:
        image: any mode and size; 16-bit and float images keep their range.

    Returns:
        float32 [50, 50]; all zeros if the image is flat (contrast under 0.05 grey levels after the blur is removed).
    """
    deep = image.mode == "F" or image.mode.startswith("I")
    grey = (image if deep else image.convert("L")).convert("F").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    detail = np.asarray(grey, np.float64)
    detail = detail - _blur() @ detail @ _blur().T
    detail -= detail.mean()
    norm = float(np.linalg.norm(detail))
    if not norm / SIDE > FLAT_RMS:
        return np.zeros((SIDE, SIDE), np.float32)
    return (detail / norm).astype(np.float32)


@cache
def _blur() -> NDArray[np.float64]:
    """float64 [50, 50]: the Gaussian blur of one axis, point reflection at the borders included, as a matrix.

    A tenth of the time of filtering: an image is small, and the kernel as wide as it.
    """
    margin = 4 * BLUR_SIGMA
    kernel = np.exp(-0.5 * (np.arange(-margin, margin + 1) / BLUR_SIGMA) ** 2)
    extended = np.pad(np.eye(SIDE), ((margin, margin), (0, 0)), mode="reflect", reflect_type="odd")
    return np.lib.stride_tricks.sliding_window_view(extended, len(kernel), axis=0) @ (kernel / kernel.sum())


def pixel_digest(image: Image.Image) -> str:
    """SHA-256 of the size, mode and decoded pixels: equal exactly if the images are, whatever file holds them."""
    head = f"{image.width}x{image.height} {image.mode} ".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()
