"""Smooth random fields: clouds for fog, frost and displacements."""

import cv2
import numpy as np
from numpy.typing import NDArray

_OCTAVES = 8


def cloud(height: int, width: int, decay: float, random: np.random.Generator) -> NDArray[np.float32]:
    """Return fractal noise `[H, W]` in [0, 1]: octaves of random grids, each twice as fine as the one before.

    Args:
        height: H.
        width: W.
        decay: how much weaker each octave is. Larger numbers give smoother clouds.
        random: random numbers. The same numbers are drawn for any decay and size.
    """
    total = np.zeros((height, width), np.float32)
    for octave in range(1, _OCTAVES + 1):
        side = 2**octave + 1
        grid = random.standard_normal((side, side), np.float32)
        # Cells that are finer than a pixel would only be sampled, so they are averaged.
        how = cv2.INTER_AREA if side > min(height, width) else cv2.INTER_CUBIC
        total += cv2.resize(grid, (width, height), interpolation=how) * np.float32(decay**-octave)
    low, high = total.min(), total.max()
    return (total - low) / max(high - low, np.float32(1e-6))


def smooth_offsets(height: int, width: int, sigma: float, random: np.random.Generator) -> NDArray[np.float32]:
    """Return two smooth random fields `[2, H, W]` of mean square 1: white noise, blurred by a Gaussian of `sigma`."""
    fields = random.standard_normal((2, height, width), np.float32)
    smooth = np.stack([cv2.GaussianBlur(field, (0, 0), sigma) for field in fields])
    return smooth / np.maximum(np.sqrt(np.square(smooth).mean()), np.float32(1e-6))
