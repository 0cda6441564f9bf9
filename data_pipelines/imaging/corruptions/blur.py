"""Blur of lenses and of movement. Lengths are given for images of 224 pixels and scaled to the shorter side."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipelines.imaging.corruptions.scaling import length_scale

Pixels = NDArray[np.float32]

_DEFOCUS = (3, 4, 6, 8, 10)
"""Radius of the disk."""
_GLASS = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
"""Sigma of the Gaussian blur, largest displacement, and how often pixels are displaced."""
_MOTION = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
"""Radius of the kernel, and sigma along it."""
_ZOOM = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
"""Zoom factors from 1 to below the first number, in steps of the second one."""
_POINTS_PER_PIXEL = 4
_LEAST_POINTS = 8


def defocus_blur(image: Pixels, level: int, random: np.random.Generator) -> Pixels:
    """Average `[H, W, 3]` over a disk, as a lens out of focus does."""
    radius = _DEFOCUS[level] * length_scale(image)
    count = max(_LEAST_POINTS, math.ceil(_POINTS_PER_PIXEL * radius))
    axis = np.arange(-count, count + 1) / count * radius
    x, y = np.meshgrid(axis, axis)
    inside = np.hypot(x, y) <= radius * (1 + 1e-6)
    return _averaged(image, x[inside], y[inside], np.ones(int(inside.sum())))


def motion_blur(image: Pixels, level: int, random: np.random.Generator) -> Pixels:
    """Average `[H, W, 3]` along a line of random direction, within 45 degrees of the horizontal."""
    radius, sigma = _MOTION[level]
    return moved(image, random.uniform(-45, 45), radius, sigma)


def moved(image: NDArray[np.float32], degrees: float, radius: float, sigma: float) -> NDArray[np.float32]:
    """Blur `[H, W]` or `[H, W, 3]` along one direction, with weights that fall like a Gaussian from one end on.

    Args:
        image: the image.
        degrees: direction, from the horizontal.
        radius: half the length of the trace, in pixels of an image of 224 pixels.
        sigma: standard deviation of the Gaussian, in the same unit.
    """
    scale = length_scale(image)
    length = 2 * radius * scale
    along = np.linspace(0, length, max(_LEAST_POINTS, math.ceil(_POINTS_PER_PIXEL * length)))
    weights = np.exp(-0.5 * np.square(along / (sigma * scale)))
    angle = math.radians(degrees)
    return _averaged(image, along * math.cos(angle), along * math.sin(angle), weights)


def glass_blur(image: Pixels, level: int, random: np.random.Generator) -> Pixels:
    """Blur `[H, W, 3]`, take each pixel from a random place near it, and blur again."""
    scale = length_scale(image)
    sigma, most, times = _GLASS[level][0] * scale, _GLASS[level][1] * scale, _GLASS[level][2]
    image = cv2.GaussianBlur(image, (0, 0), sigma)
    for _ in range(times):
        offsets = most * (2 * random.random((2, *image.shape[:2]), np.float32) - 1)
        image = displaced(image, offsets)
    blurred: Pixels = cv2.GaussianBlur(image, (0, 0), sigma)
    return blurred


def displaced(image: Pixels, offsets: NDArray[np.float32]) -> Pixels:
    """Take each pixel of `[H, W, 3]` from where its offset points, by bilinear interpolation.

    Args:
        image: the image. It is mirrored at its edges.
        offsets: `[2, H, W]` as x and y, in pixels.
    """
    y, x = np.indices(image.shape[:2], np.float32)
    moved: Pixels = cv2.remap(
        image, x + offsets[0], y + offsets[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return moved


def zoom_blur(image: Pixels, level: int, random: np.random.Generator) -> Pixels:
    """Average `[H, W, 3]` with enlargements of its center, as a camera that approaches does."""
    factors = np.arange(1, *_ZOOM[level])
    height, width = image.shape[:2]
    center_x, center_y = (width - 1) / 2, (height - 1) / 2
    total = image.copy()
    for factor in factors:
        matrix = np.array([[factor, 0, center_x * (1 - factor)], [0, factor, center_y * (1 - factor)]])
        total += cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
    return total / np.float32(len(factors) + 1)


def _averaged(
    image: NDArray[np.float32], x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Average the bilinearly interpolated image over offsets `[P]` with weights `[P]`.

    Offsets of less than a pixel therefore blur too, and a longer offset always blurs more. The published kernels have
    whole pixels, and a disk of less than one pixel changes nothing.
    """
    reach = math.ceil(max(float(np.abs(x).max()), float(np.abs(y).max()))) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    for column, across in ((left, 1 - (x - left)), (left + 1, x - left)):
        for row, down in ((top, 1 - (y - top)), (top + 1, y - top)):
            np.add.at(kernel, (row + reach, column + reach), weights * across * down)
    blurred: NDArray[np.float32] = cv2.filter2D(
        image, -1, (kernel / kernel.sum()).astype(np.float32), borderType=cv2.BORDER_REFLECT_101
    )
    return blurred
