"""Checks of features and labels before evaluation. Every rank calls them with its own part."""

import torch
from torch import Tensor

from data_pipelines.errors import UserError
from trainer.distributed.collectives import gather

_ROWS = 8192  # checked at once, because a check makes a copy


def require_same_width(train_features: Tensor, test_features: Tensor) -> None:
    """Raise a UserError if the features of two datasets, [N, F] and [M, F], have different sizes."""
    if train_features.shape[1] != test_features.shape[1]:
        raise UserError(
            f"training features have size {train_features.shape[1]}, but test features have size "
            f"{test_features.shape[1]}",
            where="evaluation",
            fix="compute both with the same backbone",
        )


def labeled(features: Tensor, labels: Tensor, num_classes: int, name: str) -> tuple[Tensor, Tensor]:
    """Return this rank's labeled samples: features `[n, F]` in at least float32, labels `[n]` int64.

    Every rank calls with its part of the dataset. An error in one part is raised on all ranks.

    Raises:
        UserError: as for `find_labeled`.
    """
    labels, has_label = find_labeled(features, labels, num_classes, name)
    features = features if features.dtype == torch.float64 else features.float()
    # indexing with a mask copies the features, which may be most of the memory
    return (features, labels) if bool(has_label.all()) else (features[has_label], labels[has_label])


def find_labeled(features: Tensor, labels: Tensor, num_classes: int, name: str) -> tuple[Tensor, Tensor]:
    """Return all labels `[n]` int64 on the device of the features `[n, F]`, and a mask `[n]` of those that are not -1.

    Every rank calls with its part of the dataset. An error in one part is raised on all ranks.

    Raises:
        UserError: shapes do not match, a feature is not finite, a label is outside the classes, or no label is left.
    """
    fix = "check the labels, and the backbone that computed the features"
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise UserError(
            f"{name} features {list(features.shape)} and labels {list(labels.shape)} must be [N, F] and [N]",
            where="evaluation",
            fix=fix,
        )
    labels = labels.to(features.device, torch.int64)
    has_label = labels >= 0
    extremes = [int(labels.min()), int(labels.max())] if len(labels) else [-1, -1]
    facts = torch.tensor([[int(is_finite(features)), int(has_label.sum()), *extremes]])
    finite, count, lowest, highest = gather(facts).unbind(1)  # [world] each
    if not bool(finite.all()):
        raise UserError(f"{name} features are not finite", where="evaluation", fix=fix)
    low, high = int(lowest.min()), int(highest.max())
    if low < -1 or high >= num_classes:
        raise UserError(
            f"{name} labels range from {low} to {high}, outside the {num_classes} classes",
            where="evaluation",
            fix="evaluate on data of the same classes, or build their index again",
        )
    if not bool(count.any()):
        raise UserError(
            f"no {name} sample has a label",
            where="evaluation",
            fix="evaluate on shards whose samples have labels",
        )
    return labels, has_label


def is_finite(features: Tensor) -> bool:
    """Return whether all features `[n, F]` of this rank are finite, with the memory of a few thousand rows."""
    return all(bool(rows.isfinite().all()) for rows in features.split(_ROWS))
