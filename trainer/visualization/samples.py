"""Which images of a set a page shows, what they are called, and how small they are drawn."""

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from data_pipelines.philox import RandomStream, permutation
from data_pipelines.shards.shard_set import ShardSet

_QUALITY = 80


def balanced_sample(labels: NDArray[np.integer], count: int, seed: int) -> NDArray[np.int64]:
    """Rising ids `[min(count, N)]` of samples that are spread over the classes as evenly as these allow.

    Classes give one sample each in turn. The samples of a smaller count are among those of a larger one of the same
    seed, and they are the same on every machine.

    Args:
        labels: `[N]` classes by row of the index, -1 where unlabeled, which counts as a class.
        count: samples wanted.
        seed: another one is another choice.
    """
    drawn = permutation(seed, RandomStream.SHOWN, epoch=0, items=np.arange(len(labels)))
    by_class = drawn[labels[drawn].argsort(kind="stable")]  # in the order drawn inside of each class
    _, first, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    turn = np.empty(len(labels), np.int64)
    turn[by_class] = np.arange(len(labels)) - np.repeat(first, sizes)
    return np.sort(drawn[turn[drawn].argsort(kind="stable")][:count])


def class_name(shards: ShardSet, sample: int) -> str:
    """Class of a sample, empty where unlabeled."""
    label = int(shards.index["label"][sample])
    return shards.classes[label] if label >= 0 else ""


def tile(image: NDArray[np.uint8], side: int) -> bytes:
    """A JPEG of an image that fits into a square; a smaller image keeps its size, since a page enlarges it for nothing.

    Args:
        image: `[H, W, 3]`, red first, or gray: `[H, W]` or `[H, W, 1]`.
        side: of the square, pixels.
    """
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], -1)
    # whole colors: at half their resolution, an image of 32 pixels is blotched
    encoded: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(scaled),
        quality=_QUALITY,
        colorspace="RGB" if scaled.shape[2] == 3 else "GRAY",
        colorsubsampling="444",
    )
    return encoded
