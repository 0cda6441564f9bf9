"""Parts of a labeled set, drawn class by class: a function of the labels, a share and a seed, on every machine."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_pipelines.errors import UserError
from data_pipelines.philox import RandomStream, permutation


def low_shot_subset(
    labels: NDArray[np.int64], share: float, seed: int, *, classes: Sequence[str], option: str = "--low-shot"
) -> NDArray[np.bool_]:
    """Mask `[N]` of the samples that a share of a labeled set consists of.

    Each class gives that share of its samples, rounded, so that classes keep their proportions. The subset of a smaller
    share lies inside of that of a larger one of the same seed.

    Args:
        labels: `[N]` classes by row of the index, -1 where unlabeled.
        share: of each class, in (0, 1]; 1 is all that have a label.
        seed: another one is another subset.
        classes: names of the classes.
        option: that asked for it, for the message.

    Raises:
        UserError: the share leaves a class that has samples without one, or all classes with one.
    """
    place, counts = _places(labels, len(classes), seed, RandomStream.LOW_SHOT)
    wanted = np.floor(share * counts + 0.5).astype(np.int64)
    lost = np.flatnonzero((wanted == 0) & (counts > 0))
    if len(lost):
        least = int(lost[counts[lost].argmin()])
        raise UserError(
            f"{100 * share:g} % of {counts[least]} images leave the class {classes[least]} without one",
            where=option,
            fix=f"ask for {np.ceil(50 / counts[least] * 10) / 10:g}% or more, or give a larger set with --train",
        )
    if wanted.max(initial=0) < 2:
        raise UserError(
            f"{100 * share:g} % leave each class one image, and none to choose with",
            where=option,
            fix="ask for more",
        )
    return (labels >= 0) & (place < wanted[labels])


def held_out_subset(
    labels: NDArray[np.int64], share: float, seed: int, *, num_classes: int
) -> NDArray[np.bool_]:
    """Mask `[N]` of labeled samples that choose a setting: a share of each class, at least one and never its last.

    Args:
        labels: `[N]` classes by row of the index, -1 where unlabeled.
        share: of each class, in (0, 1).
        seed: another one is another subset.
        num_classes: number of classes.

    Raises:
        UserError: fewer than two classes have samples, or none has two.
    """
    place, counts = _places(labels, num_classes, seed, RandomStream.HELD_OUT)
    if (counts > 0).sum() < 2 or counts.max() < 2:
        raise UserError(
            "a linear classifier needs labeled training images of two classes, two of one of them at least",
            where="--train",
            fix="give a set with more classes and images",
        )
    wanted = np.minimum(np.floor(share * counts + 0.5).astype(np.int64).clip(min=1), counts - 1)
    return (labels >= 0) & (place < wanted[labels])


def _places(
    labels: NDArray[np.int64], num_classes: int, seed: int, stream: RandomStream
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Place `[N]` of each labeled sample in its class, in random order, and the sizes `[C]` of the classes."""
    shuffled = permutation(seed, stream, epoch=0, items=np.flatnonzero(labels >= 0))
    shuffled = shuffled[labels[shuffled].argsort(kind="stable")]  # by class, in random order inside each
    counts = np.bincount(labels[shuffled], minlength=num_classes)
    place = np.zeros(len(labels), np.int64)
    place[shuffled] = np.arange(len(shuffled)) - np.repeat(counts.cumsum() - counts, counts)
    return place, counts
