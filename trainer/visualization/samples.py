"""Images of a dataset for a page: their class names and thumbnails."""

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from data_pipelines.shards.shard_set import ShardSet

_QUALITY = 80


def class_name(shards: ShardSet, sample: int) -> str:
    """Return the class name of a sample, empty if unlabeled."""
    label = int(shards.index["label"][sample])
    return shards.classes[label] if label >= 0 else ""


def tile(image: NDArray[np.uint8], side: int) -> bytes:
    """Encode an image as a JPEG that fits into a square. A smaller image keeps its size.

    Args:
        image: `[H, W, 3]`, red first, or gray: `[H, W]` or `[H, W, 1]`.
        side: side of the square, in pixels.
    """
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], -1)
    # no chroma subsampling, which blotches an image of 32 pixels
    encoded: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(scaled),
        quality=_QUALITY,
        colorspace="RGB" if scaled.shape[2] == 3 else "GRAY",
        colorsubsampling="444",
    )
    return encoded
