"""Random subsets of a dataset, drawn per class from the labels, a size and a seed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_pipelines.errors import UserError
from data_pipelines.philox import RandomStream, permutation


def low_shot_subset(
    labels: NDArray[np.int64], share: float, seed: int, *, classes: Sequence[str], option: str = "--low-shot"
) -> NDArray[np.bool_]:
    """Return a mask `[N]` of the samples in a random fraction of a labeled dataset.

    Each class contributes that fraction of its samples, rounded, so classes keep their proportions. With the same seed,
    a smaller subset is contained in a larger one.

    Args:
        labels: `[N]` classes by row of the index, -1 if unlabeled.
        share: fraction of each class, in (0, 1]. 1 selects all labeled samples.
        seed: seed of the subset.
        classes: names of the classes.
        option: the option that requested the subset, for the message.

    Raises:
        UserError: the fraction leaves a class without samples, or leaves only one sample in every class.
    """
    place, counts = _places(labels, len(classes), seed, RandomStream.LOW_SHOT)
    wanted = np.floor(share * counts + 0.5).astype(np.int64)
    lost = np.flatnonzero((wanted == 0) & (counts > 0))
    if len(lost):
        least = int(lost[counts[lost].argmin()])
        raise UserError(
            f"{100 * share:g} % of {counts[least]} images leave no image of the class {classes[least]}",
            where=option,
            fix=f"use {np.ceil(50 / counts[least] * 10) / 10:g}% or more, or give a larger dataset with --train",
        )
    if wanted.max(initial=0) < 2:
        raise UserError(
            f"{100 * share:g} % leave only one image in each class, so none can be held out",
            where=option,
            fix="use a larger fraction",
        )
    return (labels >= 0) & (place < wanted[labels])


def held_out_subset(
    labels: NDArray[np.int64], share: float, seed: int, *, num_classes: int
) -> NDArray[np.bool_]:
    """Return a mask `[N]` of labeled samples that are held out to choose a setting.

    It selects a fraction of each class, at least one sample and never the last one.

    Args:
        labels: `[N]` classes by row of the index, -1 if unlabeled.
        share: fraction of each class, in (0, 1).
        seed: seed of the subset.
        num_classes: number of classes.

    Raises:
        UserError: fewer than two classes have samples, or no class has two samples.
    """
    place, counts = _places(labels, num_classes, seed, RandomStream.HELD_OUT)
    if (counts > 0).sum() < 2 or counts.max() < 2:
        raise UserError(
            "a linear classifier needs labeled training images of two classes, and at least two of one class",
            where="--train",
            fix="give a dataset with more classes and images",
        )
    wanted = np.minimum(np.floor(share * counts + 0.5).astype(np.int64).clip(min=1), counts - 1)
    return (labels >= 0) & (place < wanted[labels])


def balanced_sample(
    labels: NDArray[np.integer], count: int, seed: int, stream: RandomStream = RandomStream.SHOWN
) -> NDArray[np.int64]:
    """Return sorted ids `[min(count, N)]` of samples, spread over the classes as evenly as possible.

    Classes give one sample each in turn. With the same seed, the samples of a smaller count are among those of a larger
    count. The choice is the same on every machine.

    Args:
        labels: `[N]` classes by row of the index. -1 means unlabeled and counts as a class.
        count: number of samples.
        seed: seed of the choice.
        stream: purpose of the choice.
    """
    drawn = permutation(seed, stream, epoch=0, items=np.arange(len(labels)))
    turn = turns_in_class(labels, drawn)
    return np.sort(drawn[turn[drawn].argsort(kind="stable")][:count])


def turns_in_class(labels: NDArray[np.integer], drawn: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place `[N]` of each sample among those of its class, from 0.

    Args:
        labels: `[N]` classes. -1 means unlabeled and counts as a class.
        drawn: `[N]` all samples in the order in which they are drawn.
    """
    by_class = drawn[labels[drawn].argsort(kind="stable")]  # in drawn order inside each class
    _, first, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    turns = np.empty(len(labels), np.int64)
    turns[by_class] = np.arange(len(labels)) - np.repeat(first, sizes)
    return turns


def _places(
    labels: NDArray[np.int64], num_classes: int, seed: int, stream: RandomStream
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the random rank `[N]` of each labeled sample in its class, and the class sizes `[C]`."""
    shuffled = permutation(seed, stream, epoch=0, items=np.flatnonzero(labels >= 0))
    shuffled = shuffled[labels[shuffled].argsort(kind="stable")]  # by class, in random order inside each
    counts = np.bincount(labels[shuffled], minlength=num_classes)
    place = np.zeros(len(labels), np.int64)
    place[shuffled] = np.arange(len(shuffled)) - np.repeat(counts.cumsum() - counts, counts)
    return place, counts
