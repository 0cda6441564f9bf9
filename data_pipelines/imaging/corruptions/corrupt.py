"""The 15 kinds of corruption, and the one function that applies them.

Kinds, levels and most formulas follow Hendrycks and Dietterich, "Benchmarking neural network robustness to common
corruptions and perturbations", ICLR 2019 (arXiv 1903.12261). Errors are not comparable with published ones:

- Frost is drawn instead of taken from photographs.
- Glass blur moves pixels by a random field instead of swaps.
- Each level of fog, frost and elastic transform is the level below, but stronger.
- Levels are scaled to the size of the image.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from data_pipelines.imaging.corruptions import blur, digital, noise, weather
from data_pipelines.philox import RandomStream, philox

Pixels = NDArray[np.float32]
Formula = Callable[[Pixels, int, np.random.Generator], Pixels]
"""Maps an image `[H, W, 3]` in [0, 1], a level from 0 to 4 and random numbers to a corrupted image `[H, W, 3]`. Values
outside [0, 1] are clipped afterwards."""

FORMULAS: Mapping[str, Formula] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}
KINDS = tuple(FORMULAS)
"""Names of the kinds, in the order of the paper."""
LEVELS = (1, 2, 3, 4, 5)
"""Levels of each kind, weakest first."""

_VERSION = 1
"""Increases if a formula or its random numbers change, because results of both must not be mixed."""


def corruption_version() -> str:
    """Return what identifies the corruptions: the version of the formulas, and NumPy's, which draws the numbers."""
    return f"{_VERSION}, numpy {np.__version__}"


def corrupt(image: NDArray[np.uint8], kind: str, level: int, sample: int) -> NDArray[np.uint8]:
    """Corrupt one image. The result is a pure function of the arguments.

    The random numbers depend on the kind and the sample, and not on the level. So a higher level is the same
    corruption, but stronger. How levels apply to an image of any size: see `scaling`.

    Args:
        image: `[H, W, 3]` RGB. It is not changed.
        kind: one of `KINDS`.
        level: one of `LEVELS`.
        sample: id of the image, below 2^32.

    Returns:
        `[H, W, 3]` uint8.

    Raises:
        ValueError: there is no such kind or level.
    """
    if level not in LEVELS:
        raise ValueError(f"level must be one of {LEVELS}, not {level}")
    pixels = image.astype(np.float32) / np.float32(255)
    if kind not in FORMULAS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind}")
    words = philox((0, 0), (sample, 0, (int(RandomStream.CORRUPTIONS) << 16) | KINDS.index(kind), 0))  # [4]
    key = words.view(np.uint64)  # [2]
    found = FORMULAS[kind](pixels, level - 1, np.random.Generator(np.random.Philox(key=key)))
    return np.rint(np.clip(found, 0, 1) * 255).astype(np.uint8)
