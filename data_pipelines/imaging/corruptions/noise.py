"""Noise of sensors and of transmission, independent in each value."""

import numpy as np
from numpy.typing import NDArray

from data_pipelines.imaging.corruptions.scaling import noise_scale

Pixels = NDArray[np.float32]

_SIGMA = (0.08, 0.12, 0.18, 0.26, 0.38)
_PHOTONS = (60, 25, 12, 5, 3)
_REPLACED = (0.03, 0.06, 0.09, 0.17, 0.27)


def gaussian_noise(image: Pixels, level: int, random: np.random.Generator) -> Pixels:
    """Add Gaussian noise to `[H, W, 3]`, as of a camera in the dark."""
    return image + _SIGMA[level] * noise_scale(image) * random.standard_normal(image.shape, np.float32)


def shot_noise(image: Pixels, level: int, random: np.random.Generator) -> Pixels:
    """Draw each value of `[H, W, 3]` from a Poisson distribution of few photons."""
    photons = _PHOTONS[level] / noise_scale(image) ** 2
    return (random.poisson(image * photons) / photons).astype(np.float32)


def impulse_noise(image: Pixels, level: int, random: np.random.Generator) -> Pixels:
    """Replace a fraction of the values of `[H, W, 3]` by 0 or 1."""
    draw = random.random(image.shape, np.float32)
    replaced = _REPLACED[level] * noise_scale(image)
    # The lower half of the drawn range becomes 0 and the upper half 1. A higher level replaces these values and others.
    return np.where(draw < replaced / 2, 0, np.where(draw > 1 - replaced / 2, 1, image)).astype(np.float32)
