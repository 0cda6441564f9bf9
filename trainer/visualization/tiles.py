"""Small pictures for pages."""

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

_QUALITY = 80


def tile(image: NDArray[np.uint8], side: int) -> bytes:
    """A JPEG of an image that fits into a square; a smaller image keeps its size, since a page enlarges it for nothing.

    Args:
        image: `[H, W, 3]`, red first, or grey: `[H, W]` or `[H, W, 1]`.
        side: of the square, pixels.
    """
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], -1)
    # whole colours: at half their resolution, an image of 32 pixels is blotched
    encoded: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(scaled), quality=_QUALITY,
        colorspace="RGB" if scaled.shape[2] == 3 else "GRAY", colorsubsampling="444",
    )  # fmt: skip
    return encoded
