"""Which images of a set are shown, and what they are called."""

import numpy as np
from numpy.typing import NDArray

from data_pipelines.philox import Stream, permutation
from data_pipelines.shards import ShardSet


def balanced_sample(labels: NDArray[np.integer], count: int, seed: int) -> NDArray[np.int64]:
    """Rising ids `[min(count, N)]` of samples that are spread over the classes as evenly as these allow.

    Classes give one sample each in turn. The samples of a smaller count are among those of a larger one of the same
    seed, and they are the same on every machine.

    Args:
        labels: `[N]` classes by row of the index, -1 where unlabelled, which counts as a class.
        count: samples wanted.
        seed: another one is another choice.
    """
    drawn = permutation(seed, Stream.SHOWN, epoch=0, items=np.arange(len(labels)))
    by_class = drawn[labels[drawn].argsort(kind="stable")]  # in the order drawn inside of each class
    _, first, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    turn = np.empty(len(labels), np.int64)
    turn[by_class] = np.arange(len(labels)) - np.repeat(first, sizes)
    return np.sort(drawn[turn[drawn].argsort(kind="stable")][:count])


def class_name(shards: ShardSet, sample: int) -> str:
    """Class of a sample, empty where unlabelled."""
    label = int(shards.index["label"][sample])
    return shards.classes[label] if label >= 0 else ""
