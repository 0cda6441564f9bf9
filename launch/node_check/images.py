"""How many JPEGs this node decodes per second."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import simplejpeg

from data_pipelines.cores import usable_cores
from data_pipelines.imaging.images import decode_rgb

_SIZE = (375, 500)
"""Height and width of a usual image of ImageNet."""


def decode_rate(seconds: float) -> float:
    """Return the images per second that all usable cores decode, one thread for each.

    The image has as many details as a photo: about 100 kB of JPEG at quality 90.
    """
    height, width = _SIZE
    numbers = np.random.default_rng(0)
    coarse = numbers.integers(0, 256, (height // 25, width // 25, 3))
    smooth = np.kron(coarse, np.ones((25, 25, 1)))
    pixels = np.clip(smooth + numbers.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)  # [H, W, 3]
    jpeg = simplejpeg.encode_jpeg(pixels, quality=90)
    cores = usable_cores()
    with ThreadPoolExecutor(cores) as pool:
        began = time.perf_counter()
        decoded = sum(pool.map(partial(_decode_until, jpeg), [began + seconds] * cores))
        return decoded / (time.perf_counter() - began)


def _decode_until(jpeg: bytes, end: float) -> int:
    """Decode an image again and again. Returns how often."""
    count = 0
    while time.perf_counter() < end:
        decode_rgb(jpeg)
        count += 1
    return count
