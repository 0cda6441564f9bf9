"""Chooses the validation samples of a dataset that is split: a fraction, or a number of each class."""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from data_pipelines.philox import RandomStream, permutation
from data_pipelines.shards.mixed_set import split_by_fractions
from data_pipelines.shards.subsets import turns_in_class


def validation_fraction(labels: NDArray[np.integer], fraction: Fraction, seed: int) -> NDArray[np.bool_]:
    """Return a mask `[N]` of a fraction of the samples in which the classes keep their proportions.

    The number of samples is the fraction of all, rounded. The classes share it by largest remainder, so each is off by
    less than one sample.

    Args:
        labels: `[N]` classes by row of the index. -1 means unlabeled and counts as a class.
        fraction: fraction of the samples, in (0, 1).
        seed: seed of the choice.
    """
    _, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    wanted = int(len(labels) * fraction + Fraction(1, 2))
    parts = split_by_fractions(wanted, [Fraction(int(count), len(labels)) for count in counts])
    chosen: NDArray[np.bool_] = _turns(labels, seed) < np.array(parts)[place]
    return chosen


def validation_per_class(labels: NDArray[np.integer], number: int, seed: int) -> NDArray[np.bool_]:
    """Return a mask `[N]` of a number of samples of each class. Samples without a label are not chosen.

    Args:
        labels: `[N]` classes by row of the index. -1 means unlabeled.
        number: number of samples of each class.
        seed: seed of the choice.
    """
    chosen: NDArray[np.bool_] = (labels >= 0) & (_turns(labels, seed) < number)
    return chosen


def _turns(labels: NDArray[np.integer], seed: int) -> NDArray[np.int64]:
    drawn = permutation(seed, RandomStream.VALIDATION, epoch=0, items=np.arange(len(labels)))
    return turns_in_class(labels, drawn)
