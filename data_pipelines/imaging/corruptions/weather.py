"""Weather and light."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipelines.imaging.corruptions.blur import moved
from data_pipelines.imaging.corruptions.frost_picture import frost_picture
from data_pipelines.imaging.corruptions.random_fields import cloud
from data_pipelines.imaging.corruptions.scaling import length_scale

Pixels = NDArray[np.float32]

_SNOW = (
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)
"""Mean and deviation of the flakes, their size, the threshold, radius and sigma of their fall, and weight of the image.
Lengths are for images of 224 pixels."""
_FROST = (0.25, 0.4, 0.5, 0.6, 0.7)
"""Weight of the frost."""
_FOG = (1.0, 1.5, 2.0, 2.5, 3.0)
"""Amount of fog, for an image whose brightest value is 1."""
_FOG_DECAY = 1.7
_FOG_DARKEST = 0.3
_BRIGHTER = (0.1, 0.2, 0.3, 0.4, 0.5)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def snow(image: Pixels, level: int, random: np.random.Generator) -> Pixels:
    """Whiten `[H, W, 3]` and add falling flakes in two layers."""
    weight = _SNOW[level][-1]
    height, width = image.shape[:2]
    scale = length_scale(image)
    # Flakes of a small image would be less than a pixel. They are drawn for a shorter side of 224 pixels and averaged.
    layer = _falling_flakes(round(height / scale), round(width / scale), level, random)
    flakes: Pixels = cv2.resize(layer, (width, height), interpolation=cv2.INTER_AREA)[:, :, None]
    white = np.maximum(image, (image @ _LUMA)[:, :, None] * 1.5 + 0.5)
    return weight * image + (1 - weight) * white + flakes + flakes[::-1, ::-1]


def _falling_flakes(height: int, width: int, level: int, random: np.random.Generator) -> NDArray[np.float32]:
    mean, deviation, size, threshold, radius, sigma, _ = _SNOW[level]
    grid = random.standard_normal((height, width), np.float32)[
        : math.ceil(height / size), : math.ceil(width / size)
    ]
    flakes = cv2.resize(mean + deviation * grid, (width, height), interpolation=cv2.INTER_LINEAR)
    flakes = np.where(flakes < threshold, 0, flakes).clip(0, 1).astype(np.float32)
    return moved(flakes, random.uniform(-135, -45), radius, sigma)


def frost(image: Pixels, level: int, random: np.random.Generator) -> Pixels:
    """Blend `[H, W, 3]` with a picture of ice crystals."""
    weight = np.float32(_FROST[level])
    height, width = image.shape[:2]
    return (1 - weight) * image + weight * frost_picture(height, width, random)


def fog(image: Pixels, level: int, random: np.random.Generator) -> Pixels:
    """Blend `[H, W, 3]` with a cloud that is as bright as its brightest value."""
    most, amount = float(image.max()), _FOG[level]
    height, width = image.shape[:2]
    thickness = cloud(height, width, _FOG_DECAY, random)[:, :, None]
    fogged = image + amount * (_FOG_DARKEST + (1 - _FOG_DARKEST) * thickness)
    return fogged * np.float32(most / (most + amount))


def brightness(image: Pixels, level: int, random: np.random.Generator) -> Pixels:
    """Raise the value of each color of `[H, W, 3]`, and keep its hue and saturation."""
    colors = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    colors[:, :, 2] = np.minimum(colors[:, :, 2] + _BRIGHTER[level], 1)
    brighter: Pixels = cv2.cvtColor(colors, cv2.COLOR_HSV2RGB)
    return brighter
