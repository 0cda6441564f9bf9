"""How levels that are stated for images of 224 pixels apply to images of another size.

A blur of ten pixels leaves nothing of an image of 32. So lengths are the same fraction of the shorter side in any
image. Noise and larger pixels change small images less, by the square root of that factor, because fewer pixels show
what is in them. For 32 pixels this gives about the levels that the authors chose for CIFAR-10-C.
"""

import math

import numpy as np
from numpy.typing import NDArray

REFERENCE_SIDE = 224
"""Shorter side of the images, in pixels, for which the paper states its levels."""


def length_scale(image: NDArray[np.float32]) -> float:
    """Return the factor of all lengths in pixels for an image `[H, W, 3]` or `[H, W]`."""
    return min(image.shape[:2]) / REFERENCE_SIDE


def noise_scale(image: NDArray[np.float32]) -> float:
    """Return the factor of noise and of larger pixels for an image `[H, W, 3]`, at most 1."""
    return min(1.0, math.sqrt(length_scale(image)))
