"""Low-shot evaluation: a linear classifier on frozen features, trained on a small fraction of the training set."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipelines.shards.subsets import low_shot_subset
from trainer.evaluation.linear_fast import linear_probe


@dataclass(frozen=True)
class LowShotResult:
    """Mean and standard deviation over the subsets. Accuracies are fractions in [0, 1]."""

    top1: float
    top1_std: float
    """Standard deviation of the subsets' results around their mean (n - 1)."""
    top5: float
    top5_std: float
    share: float
    """Fraction of each class's training images."""
    training_images: int
    """Number of images in one subset."""
    subsets: list[dict[str, Any]]
    """Seed and result of each subset."""


def low_shot(
    train_features: Tensor,
    train_labels: Tensor,
    train_ids: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    share: float,
    seeds: Sequence[int],
    index_labels: NDArray[np.int64],
    classes: Sequence[str],
) -> LowShotResult:
    """Fit a linear probe to each of several subsets of the training set, and test all on the same test set.

    Labels of 1 % and 10 % of ImageNet: Hénaff et al. 2019 (arXiv 1905.09272). The subsets are drawn from the dataset's
    index. An unreadable sample is missing from its subset and changes nothing else. Every rank calls with its own part
    of both datasets and gets the result of the whole.

    Args:
        train_features: `[n, F]` of this rank.
        train_labels: `[n]`.
        train_ids: `[n]` rows of the training set's index.
        test_features: `[m, F]` of this rank.
        test_labels: `[m]`.
        share: fraction of each class, in (0, 1).
        seeds: seeds of the subsets, two or more.
        index_labels: classes of all rows of the training set's index.
        classes: names of the classes.

    Raises:
        UserError: the fraction leaves a class without an image, or as for `linear_probe`.
    """
    ids = train_ids.cpu()
    subsets = []
    for seed in seeds:
        mask = torch.from_numpy(low_shot_subset(index_labels, share, seed, classes=classes))
        # The probe skips samples without a label, so no features are copied.
        found = linear_probe(
            train_features,
            train_labels.where(mask[ids].to(train_labels.device), -1),
            test_features,
            test_labels,
            num_classes=len(classes),
            seed=seed,
            train_ids=train_ids,
        )
        subsets.append({"seed": seed, **asdict(found)})
    top1, top5 = ([subset[name] for subset in subsets] for name in ("top1", "top5"))
    return LowShotResult(
        statistics.mean(top1),
        statistics.stdev(top1),
        statistics.mean(top5),
        statistics.stdev(top5),
        share,
        int(mask.sum()),
        subsets,
    )
