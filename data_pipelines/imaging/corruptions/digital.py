"""Errors of processing: contrast, distortion, resolution and compression."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipelines.imaging.corruptions.blur import displaced
from data_pipelines.imaging.corruptions.random_fields import smooth_offsets
from data_pipelines.imaging.corruptions.scaling import length_scale, noise_scale

Pixels = NDArray[np.float32]

_CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
_ELASTIC = (0.005, 0.0085, 0.012, 0.016, 0.02)
"""Root mean square displacement, as a fraction of the shorter side."""
_ELASTIC_SIGMA = 0.05
"""Smoothness of the displacements, as a fraction of the shorter side."""
_RESOLUTION = (0.6, 0.5, 0.4, 0.3, 0.25)
"""Side of the image in larger pixels, as a fraction of its side in pixels."""
_QUALITY = (25, 18, 15, 10, 7)


def contrast(image: Pixels, level: int, random: np.random.Generator) -> Pixels:
    """Move the values of `[H, W, 3]` toward the mean of their channel."""
    mean = image.mean(axis=(0, 1), keepdims=True)
    return mean + _CONTRAST[level] * (image - mean)


def elastic_transform(image: Pixels, level: int, random: np.random.Generator) -> Pixels:
    """Stretch and shift regions of `[H, W, 3]` by smooth random displacements."""
    height, width = image.shape[:2]
    side = min(height, width)
    return displaced(
        image, _ELASTIC[level] * side * smooth_offsets(height, width, _ELASTIC_SIGMA * side, random)
    )


def pixelate(image: Pixels, level: int, random: np.random.Generator) -> Pixels:
    """Average `[H, W, 3]` over larger pixels."""
    # A small image has few pixels to lose, as with noise.
    side = 1 + (1 / _RESOLUTION[level] - 1) * noise_scale(image)
    rows = _coarser(image, side)
    return _coarser(rows.swapaxes(0, 1), side).swapaxes(0, 1).astype(np.float32)


def _coarser(image: NDArray[np.floating], side: float) -> NDArray[np.float64]:
    """Average the rows of `[L, W, 3]` over rows that are `side` times as long, and show these in L rows.

    The sum over the rows above a place is linear between the edges of the longer rows. So it is read at these edges,
    interpolated between them, and its differences are the result.
    """
    length = len(image)
    edges = np.minimum(np.arange(math.ceil(length / side) + 1) * side, length)  # [l + 1]
    sums = np.concatenate([np.zeros_like(image[:1], np.float64), image.cumsum(axis=0, dtype=np.float64)])
    places = np.interp(np.arange(length + 1), edges, np.arange(len(edges)))  # [L + 1]
    return np.diff(_between(_between(sums, edges), places), axis=0)


def _between(rows: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate rows `[R, W, 3]` linearly at fractional row numbers `[P]`: `[P, W, 3]`."""
    above = np.minimum(places.astype(np.int64), len(rows) - 2)
    share = (places - above)[:, None, None]
    return rows[above] * (1 - share) + rows[above + 1] * share


def jpeg_compression(image: Pixels, level: int, random: np.random.Generator) -> Pixels:
    """Compress `[H, W, 3]` as a JPEG of low quality, with colors at half the resolution."""
    values = np.rint(image[:, :, ::-1] * 255).astype(np.uint8)
    # libjpeg multiplies its quantization steps by 50 / quality, and above a quality of 50 by 2 - quality / 50.
    steps = 50 / _QUALITY[level] * min(1.0, length_scale(image))
    quality = round(50 / steps if steps > 1 else 50 * (2 - steps))
    _, file = cv2.imencode(".jpg", values, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR), np.float32)
    return decoded[:, :, ::-1] / np.float32(255)
