"""Images of a dataset for a page: their choice, class names and thumbnails."""

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from data_pipelines.philox import RandomStream, permutation
from data_pipelines.shards.shard_set import ShardSet

_QUALITY = 80


def balanced_sample(labels: NDArray[np.integer], count: int, seed: int) -> NDArray[np.int64]:
    """Return sorted ids `[min(count, N)]` of samples, spread over the classes as evenly as possible.

    Classes give one sample each in turn. With the same seed, the samples of a smaller count are among those of a larger
    count. The choice is the same on every machine.

    Args:
        labels: `[N]` classes by row of the index. -1 means unlabeled and counts as a class.
        count: number of samples.
        seed: seed of the choice.
    """
    drawn = permutation(seed, RandomStream.SHOWN, epoch=0, items=np.arange(len(labels)))
    by_class = drawn[labels[drawn].argsort(kind="stable")]  # in drawn order inside each class
    _, first, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    turn = np.empty(len(labels), np.int64)
    turn[by_class] = np.arange(len(labels)) - np.repeat(first, sizes)
    return np.sort(drawn[turn[drawn].argsort(kind="stable")][:count])


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
