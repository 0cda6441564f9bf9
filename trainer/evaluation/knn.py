"""Weighted nearest-neighbour classification of frozen features."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from data_pipelines.errors import UserError


@dataclass(frozen=True)
class KNNResult:
    """Accuracies as shares of the labelled test samples, in [0, 1]."""

    top1: float
    top5: float


@torch.no_grad()
def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
    num_classes: int,
    chunk: int = 256,
) -> KNNResult:
    """Let the k most similar training samples vote (Wu et al. 2018, arXiv 1805.01978, section 3.4).

    Similarity s is the cosine; a neighbour votes for its class with weight exp(s / temperature). Samples with
    label -1 have no label and are left out of both sets. With fewer than k training samples all of them vote.

    Ties: of classes with equal votes the lower number goes first. A class that no neighbour belongs to is never
    among the five. Which of several training samples of exactly the same similarity is the k-th is left to
    `torch.topk`.

    Args:
        train_features: `[N, F]`, need not be normalised; half precision is computed in float32.
        train_labels: `[N]` integers below `num_classes`.
        test_features: `[M, F]`.
        test_labels: `[M]`.
        k: neighbours that vote.
        temperature: of the votes; the smaller, the more the nearest count.
        num_classes: number of classes.
        chunk: test samples compared at once; memory grows with `chunk x N`.

    Raises:
        UserError: shapes or labels do not fit, features are not finite, or one set has no label.
    """
    train_features, train_labels = labelled(train_features, train_labels, num_classes, "training")
    test_features, test_labels = labelled(test_features, test_labels, num_classes, "test")
    if train_features.shape[1] != test_features.shape[1]:
        raise UserError(
            f"training features have {train_features.shape[1]} numbers, test features {test_features.shape[1]}",
            where="evaluation",
            fix="compute both with the same backbone",
        )
    k = min(k, len(train_features))
    bank = F.normalize(train_features, dim=1)  # [N, F]
    top1 = top5 = 0
    for features, labels in zip(test_features.split(chunk), test_labels.split(chunk), strict=True):
        similarity, index = (F.normalize(features, dim=1) @ bank.T).topk(k, dim=1)  # [C, k]
        neighbour_labels = train_labels[index]  # [C, k]
        # Votes relative to the best neighbour's, in float64: exp(1 / temperature) overflows below 0.012.
        weights = ((similarity - similarity[:, :1]).double() / temperature).exp()
        votes = weights.new_zeros(len(features), num_classes).scatter_add_(1, neighbour_labels, weights)
        own = votes.gather(1, labels[:, None])  # [C, 1]
        below = torch.arange(num_classes, device=votes.device) < labels[:, None]
        rank = ((votes > own) | ((votes == own) & below)).sum(1)
        voted = (neighbour_labels == labels[:, None]).any(1)
        top1 += int((voted & (rank < 1)).sum())
        top5 += int((voted & (rank < 5)).sum())
    return KNNResult(top1 / len(test_features), top5 / len(test_features))


def labelled(features: Tensor, labels: Tensor, num_classes: int, name: str) -> tuple[Tensor, Tensor]:
    """The samples that have a label: features `[N, F]` in at least float32, labels `[N]` int64.

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
    if not bool(features.isfinite().all()):
        raise UserError(f"{name} features are not finite", where="evaluation", fix=fix)
    labels = labels.to(features.device, torch.int64)
    if bool(((labels < -1) | (labels >= num_classes)).any()):
        low, high = int(labels.min()), int(labels.max())
        raise UserError(
            f"{name} labels run from {low} to {high}, outside the {num_classes} classes",
            where="evaluation",
            fix="evaluate on data of the same classes, or build their index again",
        )
    has_label = labels >= 0
    if not bool(has_label.any()):
        raise UserError(
            f"no {name} sample has a label",
            where="evaluation",
            fix="evaluate on shards whose samples have labels",
        )
    features = features if features.dtype == torch.float64 else features.float()
    return features[has_label], labels[has_label]
