"""What features and labels must be before they are judged; every rank calls with its own share."""

import torch
from torch import Tensor

from data_pipelines.errors import UserError
from trainer.distributed.collectives import gather


def require_same_width(train_features: Tensor, test_features: Tensor) -> None:
    """Raise a UserError where the features of two sets, [N, F] and [M, F], are not of one backbone."""
    if train_features.shape[1] != test_features.shape[1]:
        raise UserError(
            f"training features have {train_features.shape[1]} numbers, test features {test_features.shape[1]}",
            where="evaluation",
            fix="compute both with the same backbone",
        )


def labeled(features: Tensor, labels: Tensor, num_classes: int, name: str) -> tuple[Tensor, Tensor]:
    """The samples of this rank that have a label: features `[n, F]` in at least float32, labels `[n]` int64.

    Every rank calls with its share of the set; what is wrong with one share is raised on all ranks.

    Raises:
        UserError: shapes do not fit, a feature is not finite, a label is outside the classes, or none is left.
    """
    fix = "check the labels and the backbone that the features come from"
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise UserError(
            f"{name} features {list(features.shape)} and labels {list(labels.shape)} must be [N, F] and [N]",
            where="evaluation",
            fix=fix,
        )
    labels = labels.to(features.device, torch.int64)
    has_label = labels >= 0
    extremes = [int(labels.min()), int(labels.max())] if len(labels) else [-1, -1]
    facts = torch.tensor([[int(features.isfinite().all()), int(has_label.sum()), *extremes]])
    finite, count, lowest, highest = gather(facts).unbind(1)  # [world] each
    if not bool(finite.all()):
        raise UserError(f"{name} features are not finite", where="evaluation", fix=fix)
    low, high = int(lowest.min()), int(highest.max())
    if low < -1 or high >= num_classes:
        raise UserError(
            f"{name} labels run from {low} to {high}, outside the {num_classes} classes",
            where="evaluation",
            fix="evaluate on data of the same classes, or build their index again",
        )
    if not bool(count.any()):
        raise UserError(
            f"no {name} sample has a label",
            where="evaluation",
            fix="evaluate on shards whose samples have labels",
        )
    features = features if features.dtype == torch.float64 else features.float()
    # a mask copies, and the features may be most of the memory
    return (features, labels) if bool(has_label.all()) else (features[has_label], labels[has_label])
